"""Linear layers of a graph as int8 products, each row of activations with a scale of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8

LEAST = 1e-12  # keeps a row of zeros from being divided by zero
STEPS = 127  # a weight, and an activation around ZERO, takes -127 .. 127
ZERO = 128  # of activations, which are stored unsigned: products of uint8 and int8 are what processors have


def quantize(file: Path, out: Path) -> int:
    """Write a graph whose products with constant matrices are int8.

    Weights have one scale an output channel. Activations have one scale a row (a position of a caption, a token of
    a photo), found when they are multiplied; onnxruntime's own ``quantize_dynamic`` has one scale a tensor, with
    which a caption depends on what else is in its batch (LOG.md). The products are exact where the processor has
    instructions for them (VNNI on x86, dot products on Arm); older x86 processors saturate sums of two.

    Args:
        file: graph to read.
        out: graph to write, may be the same.

    Returns:
        How many products were replaced; a graph without any is written as it is.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    new = _Weights()
    nodes: list[Any] = []
    replaced = 0
    for node in graph.node:
        matrix = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is None or len(matrix.dims) != 2:
            nodes.append(node)
            continue
        if matrix.name not in new.names:
            new.add(matrix.name, numpy_helper.to_array(matrix))
        replaced += 1
        nodes += _product(node.input[0], matrix.name, node.output[0])
    if not replaced:
        onnx.save(model, out)
        return 0
    used = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *new.tensors()])
    if all(one.domain != "com.microsoft" for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for entry in model.metadata_props:
        if entry.key == "clearcap.weights":
            entry.value = "int8"
    onnx.save(model, out)
    return replaced


def quantize_columns(
    weight: Float[np.ndarray, "inputs outputs"],
) -> tuple[Int8[np.ndarray, "inputs outputs"], Float[np.ndarray, " outputs"]]:
    """A matrix as int8 and one scale a column."""
    scale = np.maximum(np.abs(weight).max(0), LEAST) / STEPS
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)


class _Weights:
    """The constants of the new nodes."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._arrays: dict[str, np.ndarray] = {
            "int8.least": np.array(LEAST, np.float32),
            "int8.step": np.array(1 / STEPS, np.float32),
            "int8.zero": np.array(ZERO, np.uint8),
            "int8.last": np.array([-1], np.int64),
        }

    def add(self, name: str, weight: np.ndarray) -> None:
        self._arrays[f"{name}.int8"], self._arrays[f"{name}.scale"] = quantize_columns(weight)
        self.names.add(name)

    def tensors(self) -> list[Any]:
        from onnx import numpy_helper

        return [numpy_helper.from_array(array, name) for name, array in self._arrays.items()]


def _product(x: str, weight: str, y: str) -> list[Any]:
    """y = x @ weight: rows divided by their greatest magnitude, an int8 product, and multiplied again."""
    from onnx import helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes)

    named = f"{y}.int8"
    return [
        node("Abs", [x], f"{named}.size"),
        node("ReduceMax", [f"{named}.size", "int8.last"], f"{named}.peak", keepdims=1),
        node("Max", [f"{named}.peak", "int8.least"], f"{named}.row"),
        node("Div", [x, f"{named}.row"], f"{named}.unit"),
        node("QuantizeLinear", [f"{named}.unit", "int8.step", "int8.zero"], f"{named}.x"),
        node(
            "MatMulIntegerToFloat",
            [f"{named}.x", f"{weight}.int8", "int8.step", f"{weight}.scale", "int8.zero"],
            f"{named}.y",
            domain="com.microsoft",
        ),
        node("Mul", [f"{named}.y", f"{named}.row"], y),
    ]
