"""Exported graphs run by onnxruntime, as the parts of a captioner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from clearcap.arrays import Context, Latents, Logits, TokenIds
from clearcap.captioner.building import Parts
from clearcap.captioner.folder import settings_of
from clearcap.captioner.generating import CaptionModel
from clearcap.captioner.onnx import FORMAT, GRAPHS, graph_file, is_exported
from clearcap.captioner.onnx.weights import opened
from clearcap.data.threads import OWN, threads
from clearcap.errors import InputError
from clearcap.text.tokenizer import WordPieces


class Buffers(dict[str, Any]):
    """Files of weights by the names that graphs call them; a pickle holds their bytes, once for all graphs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, ({name: bytes(buffer) for name, buffer in self.items()},)


class Graph:
    """One graph, opened on the CPU.

    onnxruntime gives a session its threads when it is opened. Where ``set_threads`` asks for another number in the
    thread that calls, a second session is opened with that many: batches that are captioned at once, a thread each,
    would otherwise all wait for the threads of one session, and spend a third of their processor time on it (LOG.md).
    """

    def __init__(
        self, file: Path, name: str, weights: Buffers | None = None, data: bytes | None = None
    ) -> None:
        """Args:
            file: to open.
            name: of the graph that it must be.
            weights: files that it may point to.
            data: what the file holds, where it is at hand.

        Raises:
            InputError: onnxruntime is not installed, or the file is absent, damaged or another graph.
        """
        self.file, self.name, self.held = file, name, weights or Buffers()
        self._opened_with, self._opening, self._data = threads(), Lock(), data
        session = _open(file, self.held, self._opened_with, data)
        self._sessions = {self._opened_with: session}
        about: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        found = (about.get("clearcap.format"), about.get("clearcap.graph"))
        if found != (FORMAT, name):
            raise InputError(
                f"{file}: not the graph {name!r} of format {FORMAT} but {found[1]!r} of {found[0]!r}; "
                "write it again with clearcap export --onnx"
            )
        self.stamp = about.get("clearcap.stamp", "")
        self.weights = about.get("clearcap.weights", "float32")
        self.parameters = int(about.get("clearcap.parameters", 0))
        self.special_ids = tuple(int(token) for token in about.get("clearcap.special_ids", "").split())
        self.inputs = {one.name for one in session.get_inputs()}
        self.shapes: dict[str, list[Any]] = {one.name: one.shape for one in session.get_outputs()}

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle, and a copy, is opened anew, wherever that is. Raises InputError where the file is gone."""
        try:
            return Graph, (self.file, self.name, self.held, self.file.read_bytes())
        except OSError as fault:
            raise InputError(
                f"{self.file}: is gone, so the captioner cannot be copied; load it again"
            ) from fault

    def __call__(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """The outputs named (default: all), computing nothing else."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = outputs is not None
        arrays = {
            name: np.ascontiguousarray(array) for name, array in feeds.items() if name in self.inputs
        }  # a denoiser that looks at neither time nor previous prediction has no such inputs
        found: list[np.ndarray] = self.session.run(outputs, arrays, options)
        return found

    @property
    def session(self) -> Any:
        """The session with as many threads as the thread that asks was told to use."""
        count = getattr(OWN, "count", self._opened_with)
        with self._opening:
            if count not in self._sessions:
                self._sessions[count] = _open(self.file, self.held, count, self._data)
            return self._sessions[count]


class GraphEncoder:
    """Photos to one vector each: all keys and values that the denoiser keeps of it, end to end."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = [name for name in graph.shapes if not name.startswith("null_")]

    def __call__(
        self, pixels: Float[np.ndarray, "photos 3 height width"]
    ) -> Float[np.ndarray, "photos 1 numbers"]:
        """Encode photos with values in 0..1, of the size that the graph was written for."""
        found = self.graph({"pixels": pixels}, self.names)
        return np.concatenate([one.reshape(len(one), -1) for one in found], 1)[:, None]


class GraphDenoiser:
    """A denoiser computed by graphs."""

    def __init__(self, graph: Graph, encode: Graph, image_size: int) -> None:
        """Args:
        graph: ``denoise``.
        encode: ``encode``, whose outputs tell the shapes of keys and values and what stands for no photo.
        image_size: pixels a side.
        """
        self.graph = graph
        self.names = [name for name in encode.shapes if not name.startswith("null_")]
        self.shapes = [[int(size) for size in encode.shapes[name][1:]] for name in self.names]
        blank = np.zeros((1, 3, image_size, image_size), np.float32)
        self.nothing = encode({"pixels": blank}, [f"null_{name}" for name in self.names])

    def image_context(self, image: Float[np.ndarray, "photos 1 numbers"]) -> Context:
        """The tensors that ``GraphEncoder`` laid end to end."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        flat = np.split(image.reshape(len(image), -1), ends, 1)
        return _layers([one.reshape(-1, *shape) for one, shape in zip(flat, self.shapes, strict=True)])

    def null_context(self) -> Context:
        """The tensors of no photo."""
        return _layers(self.nothing)

    def __call__(
        self, x: Latents, x_self: Latents, t: Int[np.ndarray, " batch"], context: Context
    ) -> Latents:
        """``batch`` is photos * copies, photo-major."""
        by_photo = (len(context[0][0]), -1)
        feeds = {
            "noisy": x.reshape(*by_photo, *x.shape[1:]),
            "previous": x_self.reshape(*by_photo, *x.shape[1:]),
            "time": t.reshape(by_photo),
            **dict(zip(self.names, (one for layer in context for one in layer), strict=True)),
        }
        return self.graph(feeds)[0].reshape(x.shape)


class GraphText:
    """A text space computed by graphs."""

    def __init__(self, decode: Graph, words: Graph) -> None:
        """Args:
        decode: latents to logits.
        words: tokens to latents.
        """
        self.graph, self.words = decode, words
        self.dim = int(words.shapes["latent"][-1])
        self.special_ids = decode.special_ids

    def decode(self, x: Latents) -> Logits:
        """Token logits of clean latents."""
        return self.graph({"latent": x})[0]

    def encode(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """The clean latent of captions."""
        return self.words({"ids": ids, "mask": mask})[0]


class GraphModel(CaptionModel):
    """A captioner whose graphs onnxruntime runs, and whose arrays are NumPy's."""

    device, dtype, _place = "cpu", np.dtype(np.float32), None
    image_tokens = False
    libraries = ("onnxruntime",)

    def __init__(self, config: Any, parts: Parts) -> None:
        """Args:
        config: settings.
        parts: of graphs.
        """
        self.config = config
        self.take(config, parts)

    def for_inference(self) -> GraphModel:
        """Itself: it knows nothing else."""
        return self

    def to(self, *place: Any, **named: Any) -> None:
        """Raises InputError: graphs stay as they are."""
        raise InputError(
            "a captioner of graphs cannot be moved or cast; load it with backend='torch' for that"
        )

    def inference(self) -> AbstractContextManager[Any]:
        """Nothing."""
        return nullcontext()

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        """A NumPy array."""
        return np.asarray(values, dtype)

    def pixels(
        self, photos: UInt8[np.ndarray, "photos height width 3"]
    ) -> Float[np.ndarray, "photos 3 height width"]:
        """Photos as the captioner's input, in 0..1."""
        return photos.transpose(0, 3, 1, 2).astype(np.float32) / 255


def load_graphs(folder: Path) -> tuple[GraphModel, WordPieces]:
    """The captioner whose graphs a folder holds, and its tokenizer.

    Raises:
        InputError: onnxruntime is not installed, or a file is absent, damaged, or of another captioner.
    """
    weights, digest = Buffers(), ""
    if not is_exported(folder):
        found, digest = opened(folder)
        weights = Buffers(found)
    graphs = {name: Graph(graph_file(folder, name), name, weights) for name in GRAPHS}
    encode = graphs["encode"]
    if digest and encode.stamp != digest:
        raise InputError(
            f"{encode.file}: was written for other weights than those beside it; write it again: clearcap export"
        )
    for graph in graphs.values():
        if graph.stamp != encode.stamp:
            raise InputError(
                f"{graph.file}: belongs to another captioner than {encode.file.name}; "
                "write both again with clearcap export --onnx"
            )
    config = settings_of(folder)
    parts = Parts(
        text=GraphText(graphs["decode"], graphs["words"]),
        vision=GraphEncoder(encode),
        denoiser=GraphDenoiser(graphs["denoise"], encode, int(config.vision["image_size"])),
    )
    return GraphModel(config, parts), WordPieces.read(folder)


def denoiser_inputs(folder: Path, photos: int = 2, calls: int = 10) -> list[dict[str, np.ndarray]]:
    """What the denoiser's graph is given, at most ``calls`` times, while captions of random pixels are drawn.

    Raises:
        InputError: as ``load_graphs``.
    """
    captioner, _ = load_graphs(folder)
    graph, given = captioner.denoiser.graph, []

    def record(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        given.append({name: feeds[name] for name in graph.inputs})
        return graph(feeds)

    captioner.denoiser.graph = record
    side = int(captioner.config.vision["image_size"])
    captioner.generate(np.random.default_rng(0).random((photos, 3, side, side), np.float32))
    return given[:: math.ceil(len(given) / calls)]


def count_parameters(part: Any) -> int:
    """Parameters of a part of any captioner, whatever runs it."""
    if isinstance(part, (GraphEncoder, GraphDenoiser, GraphText)):
        return part.graph.parameters
    return sum(weight.numel() for weight in part.parameters())


def _layers(tensors: list[np.ndarray]) -> Context:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _open(file: Path, weights: Buffers, count: int, data: bytes | None = None) -> Any:
    """A session with so many threads. Raises InputError."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as fault:
        raise InputError(f"{file}: running it needs onnxruntime; pip install onnxruntime") from fault
    if data is None and not file.is_file():
        raise InputError(f"{file}: absent; write it with clearcap export --onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = count
    options.add_session_config_entry("session.force_spinning_stop", "1")  # NumPy's turn is next
    # Fused with the sum before it, a layer norm takes twice as long as the two apart (LOG.md)
    options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    if weights:
        sizes = [len(buffer) for buffer in weights.values()]
        options.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), sizes)
    bad = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    try:
        return onnxruntime.InferenceSession(
            data or str(file), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except (*bad, UnicodeDecodeError) as fault:  # the latter: of names in the graph
        reason = " ".join(str(fault).split())
        raise InputError(
            f"{file}: cannot be read ({reason}); write it again with clearcap export --onnx"
        ) from fault
