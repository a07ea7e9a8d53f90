"""A trained captioner to the four graphs that draw its captions."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.captioner.folder import FREQUENCY, frequency_file, named_weights
from clearcap.captioner.model import Captioner, load_captioner
from clearcap.captioner.onnx import FORMAT, graph_file
from clearcap.captioner.onnx.weights import LEAST, opened, point_to_weights
from clearcap.data.writing import make_folder, whole_file, whole_folder
from clearcap.errors import InputError

OPSET = 20  # the first with Gelu as one operator


@dataclass(frozen=True)
class Graph:
    """One graph to be written.

    Attributes:
        name: a key of ``clearcap.captioner.onnx.GRAPHS``.
        compute: what it computes.
        inputs: examples, by name; a list of tensors is named by ``context_names``.
        axes: of each input, names of the axes that vary.
        outputs: names.
        parts: of the captioner, which it computes with; it holds all parameters of the first one.
    """

    name: str
    compute: Callable[..., Any]
    inputs: dict[str, Any]
    axes: tuple[Any, ...]
    outputs: list[str]
    parts: tuple[nn.Module, ...]


class Traced(nn.Module):
    """A graph's function as the module that the tracer asks for."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.compute, self.parts = graph.compute, nn.ModuleList(graph.parts)

    def forward(self, *inputs: Any) -> Any:
        """What is traced: the function that it was made with."""
        return self.compute(*inputs)


def export_graphs(source: str, out: Path, *, int8: bool = False) -> None:
    """Write a captioner's graphs beside its settings and tokenizer: a folder that captions with onnxruntime.

    Args:
        source: folder or hub name of a trained captioner.
        out: folder to write.
        int8: weights of linear layers as int8 (see ``clearcap.captioner.onnx.int8``).

    Raises:
        InputError: no such captioner, or the extra ``onnx`` is not installed.
    """
    require_onnx()
    captioner, tokenizer = load_captioner(source)
    captioner.vision = captioner.vision.folded()
    stamp = digest(captioner)  # the same in all graphs of one captioner, so that no two are mixed
    with whole_folder(out) as fresh:
        captioner.config.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        if frequency := frequency_file(source):
            shutil.copyfile(frequency, fresh / FREQUENCY)
        for graph in graphs_of(captioner):
            write_graph(graph, graph_file(fresh, graph.name), stamp, captioner)
        if int8:
            quantize_graphs(fresh, fresh)


def add_graphs(folder: Path) -> None:
    """Write graphs beside the weights of a captioner, which they share: onnxruntime then captions with the folder.

    Args:
        folder: of a saved captioner, to stay where it is to those whose weights it shares.

    Raises:
        InputError: no such captioner, or the extra ``onnx`` is not installed.
    """
    require_onnx()
    captioner, _ = load_captioner(str(folder))
    files = named_weights(folder)
    _, stamp = opened(folder)
    for graph in graphs_of(captioner):
        with whole_file(graph_file(folder, graph.name)) as fresh:
            write_graph(graph, fresh, stamp, captioner, files)


def quantize_graphs(folder: Path, out: Path) -> None:
    """The same captioner with int8 weights: a copy of the folder, or in place.

    Only the denoiser multiplies in int8: the other graphs run once a photo, where that saves no time (LOG.md).
    """
    from clearcap.captioner.onnx.int8 import quantize
    from clearcap.captioner.onnx.runtime import denoiser_inputs

    make_folder(out)
    samples = denoiser_inputs(folder)
    for file in sorted(folder.iterdir()):
        if file.suffix == ".onnx":
            quantize(file, out / file.name, samples if file.stem == "denoise" else ())
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
    text, vision, denoiser = captioner.text, captioner.vision, captioner.denoiser

    def encode(pixels: Tensor) -> list[Tensor]:
        contexts = (denoiser.image_context(vision(pixels)), denoiser.null_context())
        return [tensor for context in contexts for layer in context for tensor in layer]

    def denoise(noisy: Tensor, previous: Tensor, time: Tensor, context: list[Tensor]) -> Tensor:
        """Captions grouped by the photo they are about: [photos, copies, length, dim]."""
        layers = list(zip(context[::2], context[1::2], strict=True))
        x0: Tensor = denoiser(noisy.flatten(0, 1), previous.flatten(0, 1), time.flatten(), layers)
        return x0.unflatten(0, noisy.shape[:2])

    photos, copies, captions = (torch.export.Dim(name) for name in ("photos", "copies", "captions"))
    size, length, dim = int(captioner.config.vision["image_size"]), captioner.length, text.dim
    pixels, x = torch.zeros(2, 3, size, size), torch.zeros(2, 3, length, dim)
    with torch.no_grad():
        encoded = encode(pixels)
    context = encoded[: len(encoded) // 2]
    kept = context_names(len(context) // 2) + context_names(len(context) // 2, "null_")
    time, both = torch.zeros(2, 3, dtype=torch.int64), {0: photos, 1: copies}
    noisy = {"noisy": x, "previous": x.clone(), "time": time, "context": context}
    axes = (both, both, both, [{0: photos} for _ in context])
    ids = torch.full((3, length), int(captioner.config.tokens["sep"]))
    words, each = {"ids": ids, "mask": torch.ones_like(ids)}, {0: captions}
    return [
        Graph("encode", encode, {"pixels": pixels}, ({0: photos},), kept, (vision, denoiser)),
        Graph("denoise", denoise, noisy, axes, ["prediction"], (denoiser,)),
        Graph("decode", text.decode, {"latent": x[0]}, (each,), ["logits"], (text,)),
        Graph("words", text.encode, words, (each, each), ["latent"], (text,)),
    ]


def context_names(layers: int, prefix: str = "") -> list[str]:
    """Names of the tensors of an image context, in their order."""
    return [f"{prefix}{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


def write_graph(
    graph: Graph,
    file: Path,
    stamp: str,
    captioner: Captioner,
    weights: Sequence[tuple[str, Path]] = (),
) -> None:
    """Trace and write one graph, with what a reader must know in its metadata.

    Args:
        graph: what is written.
        file: where.
        stamp: of its weights.
        captioner: whose graph it is.
        weights: files that it points to for its constants (``point_to_weights``); none: it holds them itself.
    """
    names = [
        name
        for key, value in graph.inputs.items()
        for name in (context_names(len(value) // 2) if isinstance(value, list) else [key])
    ]
    with quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            Traced(graph).eval(),
            tuple(graph.inputs.values()),
            input_names=names,
            output_names=graph.outputs,
            dynamic_shapes=(graph.axes,),
            opset_version=OPSET,
            dynamo=True,
            optimize=not weights,  # which merges constants into new ones
            verbose=False,
        )
        if weights:
            tidy(program.model)
    program.model.metadata_props.update(
        {
            "clearcap.format": FORMAT,
            "clearcap.graph": graph.name,
            "clearcap.stamp": stamp,
            "clearcap.weights": "float32",
            "clearcap.parameters": str(sum(weight.numel() for weight in graph.parts[0].parameters())),
            "clearcap.special_ids": " ".join(map(str, captioner.text.special_ids)),
        }
    )
    for node in program.model.graph:  # the tracer notes where in which file on this machine a node came from
        node.metadata_props.clear()
    if not weights:
        program.save(file, external_data=False)
        return
    import onnx
    import onnx_ir

    model = onnx_ir.to_proto(program.model)
    point_to_weights(model, weights)
    onnx.save(model, file)


def tidy(model: Any) -> None:
    """Compute what depends on shapes alone beforehand, and drop what nobody uses; weights stay as they are."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    fold_constants(model, input_size_limit=LEAST, output_size_limit=LEAST)
    for cleaning in (common.IdentityEliminationPass, common.CommonSubexpressionEliminationPass):
        cleaning()(model)
    common.RemoveUnusedNodesPass()(model)


def digest(captioner: Captioner) -> str:
    """SHA-256 of all weights, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(captioner.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's notes on packages it could use and on what it does not fold."""
    noted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(noted)
