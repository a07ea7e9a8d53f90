"""A TensorFlow Lite classifier: what its file holds, and the same network in torch for a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.errors import InputError


class Graph(NamedTuple):
    """A parsed classifier."""

    model: Any  # ModelT of the flatbuffer's schema
    graph: Any  # its one SubGraphT
    kinds: list[int]  # builtin operator code of each operator
    map: int  # tensor that is globally pooled: the last feature map
    logits: int  # tensor that the softmax reads


def read_graph(path: Path) -> Graph:
    """Parse a .tflite file.

    Raises:
        InputError: the file is absent or no TFLite image classifier, or ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise InputError(
            f"{path}: a .tflite teacher needs ai-edge-litert; pip install 'clearcap[teacher]'"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: no such teacher file; pass a .tflite file, a model folder or a hub name")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise InputError(f"{path}: not a TensorFlow Lite model; pass a .tflite file")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(content), 0))
    graph = model.subgraphs[0]
    codes = [model.operatorCodes[op.opcodeIndex] for op in graph.operators]
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in codes]
    pools = (schema.BuiltinOperator.AVERAGE_POOL_2D, schema.BuiltinOperator.MEAN)
    maps = [int(op.inputs[0]) for op, kind in zip(graph.operators, kinds, strict=True) if kind in pools]
    if not maps:
        raise InputError(f"{path}: no globally pooled feature map inside; pass an image classifier")
    is_softmax = kinds[-1] == schema.BuiltinOperator.SOFTMAX
    logits = int(graph.operators[-1].inputs[0]) if is_softmax else int(graph.outputs[0])
    return Graph(model, graph, kinds, maps[-1], logits)


class TfliteNetwork(nn.Module):
    """The classifier's arithmetic on real numbers, in batches, on any device.

    Quantised weights and biases are turned into the real numbers they stand for; activations are clipped to the range
    that theirs can hold, which is where a quantised network keeps its rectifiers, and not rounded.
    """

    def __init__(self, path: str | Path) -> None:
        """Read `path`.

        Raises:
            InputError: the file is none, or uses an operator other than convolutions, sums and one pooling.
        """
        super().__init__()
        parsed = read_graph(Path(path))  # first of all: it says what is missing
        from ai_edge_litert.schema_py_generated import ActivationFunctionType, BuiltinOperator, Padding

        graph, self.map, self.logits = parsed.graph, parsed.map, parsed.logits
        self.input = int(graph.inputs[0])
        self.image_size = int(graph.tensors[self.input].shape[1])
        scale, zero = _quantization(graph.tensors[self.input]) or (np.ones(1), np.zeros(1))
        self.scale, self.zero = float(scale[0]), float(zero[0])
        names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
        self.steps: list[tuple[Callable[..., Tensor], list[int], int, float, float]] = []
        for number, (op, kind) in enumerate(zip(graph.operators, parsed.kinds, strict=True)):
            name, options = names[kind], op.builtinOptions
            inputs, output = [int(i) for i in op.inputs], int(op.outputs[0])
            taken: list[int] = inputs[:1]
            step: Callable[..., Tensor]
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                depthwise = name == "DEPTHWISE_CONV_2D"
                weight = _real(parsed.model, graph.tensors[inputs[1]])
                # [out, h, w, in], or [1, h, w, channels] where each channel is its own group
                weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
                # Channels last, as all that passes through: convolutions run faster so.
                weight = weight.contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"weight{number}", weight)
                self.register_buffer(f"bias{number}", _real(parsed.model, graph.tensors[inputs[2]]))
                groups, same = len(weight) if depthwise else 1, options.padding == Padding.SAME
                step = partial(self._convolved, number, (options.strideH, options.strideW), groups, same)
            elif name == "ADD":
                taken, step = inputs, torch.add
            elif name in ("AVERAGE_POOL_2D", "MEAN"):
                step = partial(torch.mean, dim=(2, 3), keepdim=True)
            elif output == self.logits or name in ("RESHAPE", "SQUEEZE", "SOFTMAX"):
                step = partial(torch.flatten, start_dim=1)
            else:
                raise InputError(f"{path}: operator {name} is not known here; distil on a CPU, views above 0")
            activation = getattr(options, "fusedActivationFunction", ActivationFunctionType.NONE)
            low, high = _range(graph.tensors[output])
            low = max(low, 0.0) if activation != ActivationFunctionType.NONE else low
            high = min(high, 6.0) if activation == ActivationFunctionType.RELU6 else high
            self.steps.append((step, taken, output, low, high))
            if output == self.logits:
                break

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch classes"]]:
        """The last feature map before pooling, positions row by row, and the logits, of photos in 0..1."""
        values = {self.input: (images * 255 - self.zero) * self.scale}
        for step, taken, output, low, high in self.steps:
            values[output] = step(*(values[i] for i in taken)).clamp_(low, high)
        return values[self.map].flatten(2).transpose(1, 2), values[self.logits].flatten(1)

    def _convolved(self, number: int, stride: tuple[int, int], groups: int, same: bool, x: Tensor) -> Tensor:
        """The convolution of that number, with TensorFlow's padding."""
        weight, bias = self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")
        padding = _same(x.shape[-2:], weight.shape[-2:], stride) if same else [0, 0, 0, 0]
        left, right, top, bottom = padding
        if (left, top) != (right, bottom):
            x, left, top = F.pad(x, padding), 0, 0
        return F.conv2d(x, weight, bias, stride, (top, left), groups=groups)


def _quantization(tensor: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Scales and zero points, one for all or one for each slice of an axis: real = scale * (stored - zero)."""
    held = tensor.quantization
    if held is None or held.scale is None or not len(held.scale):
        return None
    return np.asarray(held.scale, np.float64), np.asarray(held.zeroPoint, np.float64)


def _range(tensor: Any) -> tuple[float, float]:
    """The real numbers that a tensor of bytes can hold; no bounds where it is no such tensor."""
    from ai_edge_litert.schema_py_generated import TensorType

    lowest = {TensorType.UINT8: 0, TensorType.INT8: -128}.get(tensor.type)
    quantization = _quantization(tensor)
    if lowest is None or quantization is None:
        return -math.inf, math.inf
    scale, zero = (float(part[0]) for part in quantization)
    return scale * (lowest - zero), scale * (lowest + 255 - zero)


def _real(model: Any, tensor: Any) -> Tensor:
    """A constant tensor's real numbers."""
    from ai_edge_litert.schema_py_generated import TensorType

    kinds = {TensorType.UINT8: np.uint8, TensorType.INT8: np.int8}
    kinds |= {TensorType.INT32: np.int32, TensorType.FLOAT32: np.float32}
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    stored = np.frombuffer(data, kinds[tensor.type]).reshape(tensor.shape).astype(np.float64)
    if quantization := _quantization(tensor):
        scale, zero = quantization
        along = [1] * stored.ndim
        along[tensor.quantization.quantizedDimension if len(scale) > 1 else 0] = -1
        stored = (stored - zero.reshape(along)) * scale.reshape(along)
    return torch.from_numpy(stored.astype(np.float32))


def _same(size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, int]) -> list[int]:
    """TensorFlow's "same" padding, as `F.pad` takes it: the odd pixel goes right and below."""
    padding: list[int] = []
    for length, width, step in reversed(list(zip(size, kernel, stride, strict=True))):
        total = max((-(-length // step) - 1) * step + width - length, 0)
        padding += [total // 2, total - total // 2]
    return padding
