"""Graphs without weights of their own: what they compute with lies in a captioner's ``model.safetensors``.

A graph's initialisers are external data of ONNX: a file, an offset and a length. Matrices that a graph wants the
other way round, or in float32 where they are stored in float16, are turned and cast by nodes of the graph, which
onnxruntime computes once, when it opens it.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearcap.captioner.folder import named_weights, shares_of
from clearcap.captioner.sharing import places_of, stored
from clearcap.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

LEAST = 64  # numbers; smaller constants stay in the graph
KINDS: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}  # by safetensors' names
FLOAT32 = 1  # ONNX's number of the type


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        name: its name there.
        place: the file, from the folder of the graphs.
        kind: its type.
        shape: its shape.
        offset: where it begins, in bytes.
        length: its bytes.
    """

    name: str
    place: str
    kind: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


def stored_tensors(file: Path, place: str) -> Iterator[Stored]:
    """The float tensors of a safetensors file, which a graph calls ``place``."""
    for name, about, begin in stored(file):
        if about["dtype"] in KINDS:
            first, last = about["data_offsets"]
            yield Stored(name, place, KINDS[about["dtype"]], tuple(about["shape"]), begin, last - first)


def point_to_weights(model: ModelProto, files: Sequence[tuple[str, Path]]) -> int:
    """Take out of a graph the constants that files of weights hold, and point to those.

    Args:
        model: changed in place.
        files: each as the graph is to call it, and where it is; of equal names the last counts.

    Returns:
        How many bytes of constants are left in the graph.
    """
    from onnx import helper, numpy_helper

    known: dict[tuple[tuple[int, ...], bytes], tuple[Stored, bool]] = {}
    for tensor, values in _read(files):
        turned = [(values, False)] + ([(values.T, True)] if values.ndim == 2 else [])
        for array, is_turned in turned:
            known.setdefault((array.shape, _digest(array)), (tensor, is_turned))
    graph, nodes, kept, left = model.graph, [], {}, []
    for constant in graph.initializer:
        array = numpy_helper.to_array(constant)
        small = array.dtype != np.float32 or array.size < LEAST
        found = None if small else known.get((array.shape, _digest(array)))
        if found is None:
            left.append(constant)
            continue
        tensor, is_turned = found
        steps: list[tuple[str, dict[str, Any]]] = (
            [("Cast", {"to": FLOAT32})] if tensor.kind != np.float32 else []
        )
        steps += [("Transpose", {"perm": [1, 0]})] if is_turned else []
        source = f"{tensor.name}.stored" if steps else constant.name
        kept[source] = _external(source, tensor)
        for place, (kind, how) in enumerate(steps):
            output = constant.name if place == len(steps) - 1 else f"{constant.name}.{kind.lower()}"
            nodes.append(helper.make_node(kind, [source], [output], name=f"{output}.{kind}", **how))
            source = output
    others = list(graph.node)
    del graph.initializer[:], graph.node[:], graph.value_info[:]
    graph.initializer.extend([*left, *kept.values()])
    graph.node.extend([*nodes, *others])
    return sum(numpy_helper.to_array(one).nbytes for one in left)


def opened(folder: Path) -> tuple[dict[str, mmap.mmap], str]:
    """The files that the graphs in a folder point to, by the names these call them, and the SHA-256 of their weights.

    Of another captioner's file only the weights that are shared count, and where they lie.

    Raises:
        InputError: one cannot be read, or the shared weights are others.
    """
    shares, held, digest = shares_of(folder), {}, hashlib.sha256()
    for place, file in named_weights(folder):
        try:
            with file.open("rb") as stream:
                held[place] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as fault:
            raise InputError(f"{file}: cannot be read ({fault}); fetch the file again") from fault
        if shares and file.parent != folder:
            shares.check(file)
            digest.update(shares.sha256.encode() + places_of(file, shares.parts))
        else:
            digest.update(held[place])
    return held, digest.hexdigest()


def _read(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[Stored, np.ndarray]]:
    """Tensors and their values in float32."""
    every = {one.name: (one, file) for place, file in files for one in stored_tensors(file, place)}
    for one, file in every.values():
        values = np.fromfile(file, one.kind, one.length // one.kind.itemsize, offset=one.offset)
        yield one, values.reshape(one.shape).astype(np.float32)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _external(name: str, stored: Stored) -> TensorProto:
    from onnx import TensorProto, helper

    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(stored.kind),
        dims=stored.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", stored.place), ("offset", stored.offset), ("length", stored.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
