"""Matrices of a graph as int8, exact on every processor: most for storage, some multiplied as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int8

if TYPE_CHECKING:
    from onnx import ModelProto

LEAST = 1e-12  # keeps a row of zeros from being divided by zero
ACTIVATION_STEPS = 127  # an activation takes -127 .. 127 around ZERO
ZERO = 128  # of activations, which are stored unsigned: products of uint8 and int8 are what processors have
WEIGHT_STEPS = 63  # two products of 255 and 63 sum to 32,130, which 16 bits hold
LOSS = 0.0016  # relative error of a graph's output that its int8 products may make together

Feeds = Mapping[str, np.ndarray]


def quantize(file: Path, out: Path, samples: Sequence[Feeds] = (), loss: float = LOSS) -> int:
    """Write a graph whose matrices are int8.

    All weights have seven bits, -63 .. 63. A matrix is stored as two of them, which a reader adds up to float32 once,
    when it opens the graph. Where that changes the output little, a product is computed in int8 instead, with the
    first of the two and activations of eight bits. x86 processors without VNNI add two products of an unsigned and a
    signed byte in 16 bits; seven bits never fill those, so sums are exact on every processor.

    Activations have one scale a row (a position of a caption), found when they are multiplied; onnxruntime's own
    ``quantize_dynamic`` has one scale a tensor, with which a caption depends on what else is in its batch (LOG.md).

    Args:
        file: graph to read.
        out: graph to write, may be the same.
        samples: inputs by which each product's error in int8 is measured; without any, none is computed in int8.
        loss: products are computed in int8 while the squares of their errors add up to at most its square, those
            first that save most operations for their error.

    Returns:
        How many products are computed in int8.
    """
    import onnx

    model = onnx.load(file)
    products = _products(model)
    chosen = _harmless(model, products, samples, loss) if samples else set()
    onnx.save(_with_int8(model, chosen, products.keys() - chosen) if products else model, out)
    return len(chosen)


def quantize_columns(
    weight: Float[np.ndarray, "inputs outputs"],
) -> tuple[
    Int8[np.ndarray, "inputs outputs"], Int8[np.ndarray, "inputs outputs"], Float[np.ndarray, " outputs"]
]:
    """A matrix as int8 of seven bits, what that leaves of it in units of a 126th, and one scale a column."""
    scale = (np.maximum(np.abs(weight).max(0), LEAST) / WEIGHT_STEPS).astype(np.float32)
    high = np.round(weight / scale)
    low = np.round((weight / scale - high) * 2 * WEIGHT_STEPS)
    return high.astype(np.int8), low.astype(np.int8), scale


def _products(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Outputs of the products with a constant matrix, and the matrix's shape."""
    constants = {one.name: tuple(one.dims) for one in model.graph.initializer}
    return {
        node.output[0]: constants[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and len(constants.get(node.input[1], ())) == 2
    }


def _harmless(
    model: ModelProto, products: Mapping[str, tuple[int, ...]], samples: Sequence[Feeds], loss: float
) -> set[str]:
    """The products to compute in int8, by their outputs' names."""
    exact = _run(model, samples)
    size = float(np.square(exact).sum())
    harm = {
        name: float(np.square(_run(_with_int8(model, {name}), samples) - exact).sum()) / size
        for name in products
    }
    chosen: set[str] = set()
    total = 0.0
    for name in sorted(products, key=lambda name: harm[name] / np.prod(products[name])):
        if total + harm[name] <= loss**2:
            chosen.add(name)
            total += harm[name]
    return chosen


def _run(model: ModelProto, samples: Sequence[Feeds]) -> np.ndarray:
    """The first output for all samples, end to end."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, dict(feeds))[0].ravel() for feeds in samples])


def _with_int8(model: ModelProto, computed: Collection[str], stored: Collection[str] = ()) -> ModelProto:
    """The model with the matrices of some products int8, by the products' outputs: to compute with, or only stored."""
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {one.name: one for one in graph.initializer}
    arrays: dict[str, np.ndarray] = {
        "int8.least": np.array(LEAST, np.float32),
        "int8.step": np.array(1 / ACTIVATION_STEPS, np.float32),
        "int8.zero": np.array(ZERO, np.uint8),
        "int8.last": np.array([-1], np.int64),
        "int8.low": np.array(0.5 / WEIGHT_STEPS, np.float32),
    }
    nodes: list[Any] = []
    for node in graph.node:
        y = node.output[0]
        if y in computed or y in stored:
            x, name = node.input[:2]
            high, low, scale = quantize_columns(numpy_helper.to_array(constants[name]))
            arrays |= {f"{name}.int8": high, f"{name}.scale": scale}
            if y in computed:
                nodes += _product(x, name, y)
                continue
            nodes += _restored(name) if f"{name}.low" not in arrays else []
            arrays[f"{name}.low"] = low
            node.input[1] = f"{name}.float"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    new = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *new])
    if all(one.domain != "com.microsoft" for one in made.opset_import):
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for entry in made.metadata_props:
        if entry.key == "clearcap.weights":
            entry.value = "int8"
    return made


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes)


def _restored(weight: str) -> list[Any]:
    """The matrix that two of int8 stand for: nodes of constants, which a reader computes once."""
    named = f"{weight}.float"
    return [
        _node("Cast", [f"{weight}.low"], f"{named}.low", to=1),  # 1: float32
        _node("Mul", [f"{named}.low", "int8.low"], f"{named}.rest"),
        _node("Cast", [f"{weight}.int8"], f"{named}.high", to=1),
        _node("Add", [f"{named}.high", f"{named}.rest"], f"{named}.steps"),
        _node("Mul", [f"{named}.steps", f"{weight}.scale"], named),
    ]


def _product(x: str, weight: str, y: str) -> list[Any]:
    """y = x @ weight: rows divided by their greatest magnitude, an int8 product, and multiplied again."""
    named = f"{y}.int8"
    return [
        _node("Abs", [x], f"{named}.size"),
        _node("ReduceMax", [f"{named}.size", "int8.last"], f"{named}.peak", keepdims=1),
        _node("Max", [f"{named}.peak", "int8.least"], f"{named}.row"),
        _node("Div", [x, f"{named}.row"], f"{named}.unit"),
        _node("QuantizeLinear", [f"{named}.unit", "int8.step", "int8.zero"], f"{named}.x"),
        _node(
            "MatMulIntegerToFloat",
            [f"{named}.x", f"{weight}.int8", "int8.step", f"{weight}.scale", "int8.zero"],
            f"{named}.y",
            domain="com.microsoft",
        ),
        _node("Mul", [f"{named}.y", f"{named}.row"], y),
    ]
