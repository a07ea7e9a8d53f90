"""A TensorFlow Lite classifier: what its file holds, and the same network in torch for a GPU."""

from __future__ import annotations

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
        shape = graph.tensors[self.input].shape
        self.image_size = int(shape[1])
        self.scale, self.zero = _scale(graph.tensors[self.input])
        names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
        self.steps: list[tuple[str, list[int], int, dict[str, Any]]] = []
        for number, (op, kind) in enumerate(zip(graph.operators, parsed.kinds, strict=True)):
            name, options = names[kind], op.builtinOptions
            inputs, output = [int(i) for i in op.inputs], int(op.outputs[0])
            how: dict[str, Any] = {}
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                depthwise = name == "DEPTHWISE_CONV_2D"
                weight = _real(parsed.model, graph.tensors[inputs[1]])
                # [out, h, w, in], or [1, h, w, channels] where each channel is its own group
                weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
                # Channels last, as all that passes through: convolutions run faster so.
                weight = weight.contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"weight{number}", weight)
                self.register_buffer(f"bias{number}", _real(parsed.model, graph.tensors[inputs[2]]))
                self.classes = len(getattr(self, f"bias{number}"))  # in the end, of the last one
                how = {"number": number, "groups": len(weight) if depthwise else 1}
                how |= {"stride": (options.strideH, options.strideW)}
                how |= {"same": options.padding == Padding.SAME}
                inputs = inputs[:1]
            elif name == "ADD":
                pass
            elif name in ("AVERAGE_POOL_2D", "MEAN"):
                name = "POOL"
            elif output == self.logits or name in ("RESHAPE", "SQUEEZE", "SOFTMAX"):
                name, inputs = "FLATTEN", inputs[:1]
            else:
                raise InputError(f"{path}: operator {name} is not known here; distil on a CPU, views above 0")
            activation = getattr(options, "fusedActivationFunction", ActivationFunctionType.NONE)
            low, high = _range(graph.tensors[output])
            low = max(low, 0.0) if activation != ActivationFunctionType.NONE else low
            high = min(high, 6.0) if activation == ActivationFunctionType.RELU6 else high
            self.steps.append((name, inputs, output, how | {"low": low, "high": high}))
            if output == self.logits:
                break

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch classes"]]:
        """The last feature map before pooling, positions row by row, and the logits, of photos in 0..1."""
        values = {self.input: (images * 255 - self.zero) * self.scale}
        for name, inputs, output, how in self.steps:
            x = values[inputs[0]]
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                weight, bias = getattr(self, f"weight{how['number']}"), getattr(self, f"bias{how['number']}")
                left, right, top, bottom = 0, 0, 0, 0
                if how["same"]:
                    left, right, top, bottom = _same(x.shape[-2:], weight.shape[-2:], how["stride"])
                if (left, top) != (right, bottom):
                    x, left, top = F.pad(x, (left, right, top, bottom)), 0, 0
                x = F.conv2d(x, weight, bias, how["stride"], (top, left), groups=how["groups"])
            elif name == "ADD":
                x = x + values[inputs[1]]
            elif name == "POOL":
                x = x.mean((2, 3), keepdim=True)
            else:
                x = x.flatten(1)
            values[output] = x.clamp_(how["low"], how["high"])
        return values[self.map].flatten(2).transpose(1, 2), values[self.logits].flatten(1)


def _scale(tensor: Any) -> tuple[float, float]:
    """Scale and zero point of a whole tensor: real = scale * (stored - zero)."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return 1.0, 0.0
    return float(quantization.scale[0]), float(quantization.zeroPoint[0])


def _range(tensor: Any) -> tuple[float, float]:
    """The real numbers that a tensor of bytes can hold; no bounds where it is no such tensor."""
    from ai_edge_litert.schema_py_generated import TensorType

    lowest = {TensorType.UINT8: 0, TensorType.INT8: -128}.get(tensor.type)
    if lowest is None or tensor.quantization is None or tensor.quantization.scale is None:
        return -float("inf"), float("inf")
    scale, zero = _scale(tensor)
    return scale * (lowest - zero), scale * (lowest + 255 - zero)


def _real(model: Any, tensor: Any) -> Tensor:
    """A constant tensor's real numbers; scales may be one for all or one for each slice of an axis."""
    from ai_edge_litert.schema_py_generated import TensorType

    kinds = {
        TensorType.UINT8: np.uint8,
        TensorType.INT8: np.int8,
        TensorType.INT32: np.int32,
        TensorType.FLOAT32: np.float32,
    }
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    stored = np.frombuffer(data, kinds[tensor.type]).reshape(tensor.shape).astype(np.float64)
    quantization = tensor.quantization
    if quantization is not None and quantization.scale is not None and len(quantization.scale):
        along = [1] * stored.ndim
        along[quantization.quantizedDimension if len(quantization.scale) > 1 else 0] = -1
        zero = np.asarray(quantization.zeroPoint, np.float64).reshape(along)
        stored = (stored - zero) * np.asarray(quantization.scale, np.float64).reshape(along)
    return torch.from_numpy(stored.astype(np.float32))


def _same(size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, int]) -> list[int]:
    """TensorFlow's "same" padding, as `F.pad` takes it: the odd pixel goes right and below."""
    padding: list[int] = []
    for length, width, step in reversed(list(zip(size, kernel, stride, strict=True))):
        total = max((-(-length // step) - 1) * step + width - length, 0)
        padding += [total // 2, total - total // 2]
    return padding
