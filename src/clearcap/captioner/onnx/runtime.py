"""Exported graphs run by onnxruntime, as the parts of a captioner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.captioner.building import Parts
from clearcap.captioner.loading import settings_of
from clearcap.captioner.network import Network
from clearcap.captioner.onnx import FORMAT, GRAPHS, graph_file
from clearcap.errors import InputError
from clearcap.layers import Context, Latents, Logits, TokenIds
from clearcap.text.tokenizer import WordPieces


class Graph:
    """One graph, opened on the CPU with as many threads as torch has."""

    def __init__(self, file: Path, name: str) -> None:
        """Raises:
        InputError: onnxruntime is not installed, or the file is absent, damaged or another graph.
        """
        self.file = file
        self.session = _open(file)
        about: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
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
        self.inputs = {one.name for one in self.session.get_inputs()}
        self.shapes: dict[str, list[Any]] = {one.name: one.shape for one in self.session.get_outputs()}

    def __call__(self, feeds: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> list[Tensor]:
        """The outputs named (default: all), computing nothing else."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = outputs is not None
        arrays = {
            name: tensor.contiguous().numpy() for name, tensor in feeds.items() if name in self.inputs
        }  # a denoiser that looks at neither time nor previous prediction has no such inputs
        return [torch.from_numpy(array) for array in self.session.run(outputs, arrays, options)]


class GraphEncoder(nn.Module):
    """Photos to one vector each: all keys and values that the denoiser keeps of it, end to end."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.names = [name for name in graph.shapes if not name.startswith("null_")]

    def forward(self, pixels: Float[Tensor, "photos 3 height width"]) -> Float[Tensor, "photos 1 numbers"]:
        """Encode photos with values in 0..1, of the size that the graph was written for."""
        return torch.cat([one.flatten(1) for one in self.graph({"pixels": pixels}, self.names)], 1)[:, None]


class GraphDenoiser(nn.Module):
    """A denoiser computed by graphs."""

    def __init__(self, graph: Graph, encode: Graph, image_size: int) -> None:
        """Args:
        graph: ``denoise``.
        encode: ``encode``, whose outputs tell the shapes of keys and values and what stands for no photo.
        image_size: pixels a side.
        """
        super().__init__()
        self.graph = graph
        self.names = [name for name in encode.shapes if not name.startswith("null_")]
        self.shapes = [[int(size) for size in encode.shapes[name][1:]] for name in self.names]
        blank = torch.zeros(1, 3, image_size, image_size)
        nothing = encode({"pixels": blank}, [f"null_{name}" for name in self.names])
        self.nothing = nn.ParameterList(nn.Parameter(one, requires_grad=False) for one in nothing)

    def image_context(self, image: Float[Tensor, "photos 1 numbers"]) -> Context:
        """The tensors that ``GraphEncoder`` laid end to end."""
        flat = image.flatten(1).split([math.prod(shape) for shape in self.shapes], 1)
        return _layers(
            [one.unflatten(1, shape).contiguous() for one, shape in zip(flat, self.shapes, strict=True)]
        )

    def null_context(self) -> Context:
        """The tensors of no photo."""
        return _layers(list(self.nothing))

    def forward(self, x: Latents, x_self: Latents, t: Int[Tensor, " batch"], context: Context) -> Latents:
        """``batch`` is photos * copies, photo-major."""
        by_photo = (context[0][0].shape[0], -1)
        feeds = {
            "noisy": x.unflatten(0, by_photo),
            "previous": x_self.unflatten(0, by_photo),
            "time": t.unflatten(0, by_photo),
            **dict(zip(self.names, (one.detach() for layer in context for one in layer), strict=True)),
        }
        return self.graph(feeds)[0].flatten(0, 1)


class GraphText(nn.Module):
    """A text space computed by graphs."""

    def __init__(self, decode: Graph, words: Graph) -> None:
        """Args:
        decode: latents to logits.
        words: tokens to latents.
        """
        super().__init__()
        self.graph, self.words = decode, words
        self.dim = int(words.shapes["latent"][-1])
        self.special_ids = decode.special_ids

    def decode(self, x: Latents) -> Logits:
        """Token logits of clean latents."""
        return self.graph({"latent": x})[0]

    def encode(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """The clean latent of captions."""
        return self.words({"ids": ids, "mask": mask})[0]


def load_graphs(folder: Path) -> tuple[Network, WordPieces]:
    """The captioner whose graphs a folder holds, and its tokenizer.

    Solvers, guidance and refinement run in torch, the networks in onnxruntime.

    Raises:
        InputError: onnxruntime is not installed, or a file is absent, damaged, or of another captioner.
    """
    graphs = {name: Graph(graph_file(folder, name), name) for name in GRAPHS}
    encode = graphs["encode"]
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
    return Network(config, parts).eval(), WordPieces.read(folder)


def denoiser_inputs(folder: Path, photos: int = 2, calls: int = 10) -> list[dict[str, np.ndarray]]:
    """What the denoiser's graph is given, at most ``calls`` times, while captions of random pixels are drawn.

    Raises:
        InputError: as ``load_graphs``.
    """
    captioner, _ = load_graphs(folder)
    graph, given = captioner.denoiser.graph, []

    def record(feeds: Mapping[str, Tensor]) -> list[Tensor]:
        given.append({name: feeds[name].numpy() for name in graph.inputs})
        return graph(feeds)

    captioner.denoiser.graph = record
    side = int(captioner.config.vision["image_size"])
    captioner.generate(torch.rand(photos, 3, side, side, generator=torch.Generator().manual_seed(0)))
    return given[:: math.ceil(len(given) / calls)]


def count_parameters(part: nn.Module) -> int:
    """Parameters of a part of any captioner, whatever runs it."""
    if isinstance(part, (GraphEncoder, GraphDenoiser, GraphText)):
        return part.graph.parameters
    return sum(weight.numel() for weight in part.parameters())


def _layers(tensors: list[Tensor]) -> Context:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _open(file: Path) -> Any:
    """A session. Raises InputError."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as fault:
        raise InputError(f"{file}: running it needs onnxruntime; pip install 'clearcap[onnx]'") from fault
    if not file.is_file():
        raise InputError(f"{file}: absent; write it with clearcap export --onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # torch's threads are next
    bad = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except bad as fault:
        reason = " ".join(str(fault).split())
        raise InputError(
            f"{file}: cannot be read ({reason}); write it again with clearcap export --onnx"
        ) from fault
