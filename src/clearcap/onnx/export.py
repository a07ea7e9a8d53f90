"""A trained captioner to the four graphs that draw its captions."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.captioner import Captioner
from clearcap.errors import InputError
from clearcap.loading import FREQUENCY, load_captioner, load_frequency
from clearcap.onnx import FORMAT, graph_file
from clearcap.vision.build import for_inference

LINEAR = ("encode", "denoise", "decode")  # graphs that int8 is worth it for
OPSET = 20  # the first with Gelu as one operator


@dataclass(frozen=True)
class Graph:
    """One graph to be written.

    Attributes:
        name: a key of ``clearcap.onnx.GRAPHS``.
        module: what it computes.
        inputs: examples, by name; a list of tensors is named by ``view_names``.
        axes: of each input, names of the axes that vary.
        outputs: names.
        part: the part of the captioner whose parameters it holds.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    axes: tuple[Any, ...]
    outputs: list[str]
    part: nn.Module


class Encode(nn.Module):
    """Photos to what the denoiser keeps of them, and what stands for no photo."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.vision, self.denoiser = captioner.vision, captioner.denoiser

    def forward(self, pixels: Tensor) -> list[Tensor]:
        seen, nothing = self.denoiser.see(self.vision(pixels)), self.denoiser.see_nothing()
        return [tensor for view in (seen, nothing) for layer in view for tensor in layer]


class Denoise(nn.Module):
    """One call of the denoiser, captions grouped by the photo they are about: [photos, copies, length, dim]."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.denoiser = captioner.denoiser

    def forward(self, noisy: Tensor, previous: Tensor, time: Tensor, view: list[Tensor]) -> Tensor:
        layers = list(zip(view[::2], view[1::2], strict=True))
        x0: Tensor = self.denoiser(noisy.flatten(0, 1), previous.flatten(0, 1), time.flatten(), layers)
        return x0.unflatten(0, noisy.shape[:2])


class Decode(nn.Module):
    """Latents to token logits."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.text = captioner.text

    def forward(self, latent: Tensor) -> Tensor:
        logits: Tensor = self.text.decode(latent)
        return logits


class Words(nn.Module):
    """Tokens to their latent."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.text = captioner.text

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        latent: Tensor = self.text.encode(ids, mask)
        return latent


def export_graphs(source: str, out: Path, *, int8: bool = False) -> None:
    """Write a captioner's graphs beside its settings and tokenizer: a folder that captions with onnxruntime.

    Args:
        source: folder or hub name of a trained captioner.
        out: folder to write.
        int8: weights of linear layers as int8, activations quantised row by row (see ``clearcap.onnx.int8``).

    Raises:
        InputError: no such captioner, or the extra ``onnx`` is not installed.
    """
    require_onnx()
    captioner, tokenizer = load_captioner(source)
    captioner.vision = for_inference(captioner.vision)
    out.mkdir(parents=True, exist_ok=True)
    captioner.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if frequency := load_frequency(source):
        frequency.save(out / FREQUENCY)
    stamp = digest(captioner)  # the same in all graphs of one captioner, so that no two are mixed
    for graph in graphs_of(captioner):
        write_graph(graph, graph_file(out, graph.name), stamp, captioner)
    if int8:
        quantize_graphs(out, out)


def quantize_graphs(folder: Path, out: Path) -> None:
    """The same captioner with int8 weights: a copy of the folder, or in place.

    ``words`` keeps its weights: it runs once a caption, and only where words are fixed.
    """
    from clearcap.onnx.int8 import quantize

    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        if file.suffix == ".onnx" and file.stem in LINEAR:
            quantize(file, out / file.name)
        elif out != folder:
            shutil.copy(file, out / file.name)


def require_onnx() -> None:
    """Raises:
    InputError: what writes graphs is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as fault:
        raise InputError(
            "writing ONNX graphs needs onnx and onnxscript; pip install 'clearcap[onnx]'"
        ) from fault


def graphs_of(captioner: Captioner) -> list[Graph]:
    """All graphs of a captioner; sizes of 2 photos and 3 copies are examples, which the tracer must tell apart."""
    photos, copies, captions = (torch.export.Dim(name) for name in ("photos", "copies", "captions"))
    size, length, dim = int(captioner.config.vision["image_size"]), captioner.length, captioner.text.dim
    pixels, x = torch.zeros(2, 3, size, size), torch.zeros(2, 3, length, dim)
    with torch.no_grad():
        view = [tensor for layer in captioner.see(captioner.encode_image(pixels)) for tensor in layer]
    names = view_names(len(view) // 2)
    ids = torch.full((3, length), int(captioner.config.tokens["sep"]))
    both = {0: photos, 1: copies}
    return [
        Graph(
            "encode",
            Encode(captioner),
            {"pixels": pixels},
            ({0: photos},),
            [*names, *view_names(len(view) // 2, "null_")],
            captioner.vision,
        ),
        Graph(
            "denoise",
            Denoise(captioner),
            {"noisy": x, "previous": x.clone(), "time": torch.zeros(2, 3, dtype=torch.int64), "view": view},
            (both, both, both, [{0: photos} for _ in view]),
            ["prediction"],
            captioner.denoiser,
        ),
        Graph("decode", Decode(captioner), {"latent": x[0]}, ({0: captions},), ["logits"], captioner.text),
        Graph(
            "words",
            Words(captioner),
            {"ids": ids, "mask": torch.ones_like(ids)},
            ({0: captions}, {0: captions}),
            ["latent"],
            captioner.text,
        ),
    ]


def view_names(layers: int, prefix: str = "") -> list[str]:
    """Names of the tensors of a view, in their order."""
    return [f"{prefix}{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


def write_graph(graph: Graph, file: Path, stamp: str, captioner: Captioner) -> None:
    """Trace and write one graph, with what a reader must know in its metadata."""
    names = [
        name
        for key, value in graph.inputs.items()
        for name in (view_names(len(value) // 2) if isinstance(value, list) else [key])
    ]
    with quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            input_names=names,
            output_names=graph.outputs,
            dynamic_shapes=graph.axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(
        {
            "clearcap.format": FORMAT,
            "clearcap.graph": graph.name,
            "clearcap.stamp": stamp,
            "clearcap.weights": "float32",
            "clearcap.parameters": str(sum(weight.numel() for weight in graph.part.parameters())),
            "clearcap.special_ids": " ".join(map(str, captioner.text.special_ids)),
        }
    )
    for node in program.model.graph:  # the tracer notes where in which file on this machine a node came from
        node.metadata_props.clear()
    program.save(file, external_data=False)


def digest(captioner: Captioner) -> str:
    """SHA-256 of all weights, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(captioner.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def quiet(names: Sequence[str] = ("torch.onnx", "onnxscript", "onnx_ir")) -> Iterator[None]:
    """Without the exporter's notes on packages it could use and on what it does not fold."""
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
