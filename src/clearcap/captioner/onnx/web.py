"""A trained captioner as files for a browser: small graphs, and all else that its captions depend on as JSON."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int8

from clearcap.captioner.model import Captioner, load_captioner
from clearcap.captioner.network import CaptionRequest
from clearcap.captioner.onnx import FORMAT, graph_file
from clearcap.captioner.onnx.export import Graph, digest, graphs_of, require_onnx, write_graph
from clearcap.data.writing import whole_folder
from clearcap.errors import InputError
from clearcap.text.tokenizer import word_ids

if TYPE_CHECKING:
    from onnx import ModelProto

BITS = 9  # of a weight; entropy coding stores them in about eight
LOW_BITS = 4  # of them, which are stored apart: what is left fits a byte
LEAST_WEIGHTS = 2000  # an array of fewer stays float32
LEAST = 1e-12  # keeps a channel of zeros from being divided by zero
SHARED = ("encode", "denoise", "decode")  # the graphs that a caption needs; the fourth's answers are in a table


def export_web(source: str, out: Path, *, bits: int | None = BITS) -> None:
    """Write what the page in ``web/`` captions with.

    Three graphs (compressed, which a page undoes), the latents that a caption's length fixes, and ``captioner.json``:
    noise levels, vocabulary, sizes. The page has one solver; settings that need more are refused.

    Args:
        source: folder or hub name of a trained captioner.
        out: folder to write.
        bits: of a weight, 5 to 12; None leaves all in float32.

    Raises:
        InputError: no such captioner, its sampling settings are not the page's, or the extra ``onnx`` is not installed.
    """
    require_onnx()
    if bits is not None and not LOW_BITS < bits <= LOW_BITS + 8:
        raise InputError(f"bits={bits} must lie between {LOW_BITS + 1} and {LOW_BITS + 8}")
    captioner, tokenizer = load_captioner(source)
    captioner.vision = captioner.vision.folded()
    about = settings(captioner) | {
        "format": FORMAT,
        "stamp": digest(captioner),
        "bits": bits or 32,
        "vocabulary": vocabulary(captioner, tokenizer),
    }
    files = {f"{name}.onnx.gz": graph for name, graph in small_graphs(captioner, bits).items()}
    files["lengths.bin.gz"] = length_latents(captioner).astype("<f4").tobytes()
    with whole_folder(out) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(compressed(content))
        about["files"] = {name: (fresh / name).stat().st_size for name in files}
        (fresh / "captioner.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def settings(captioner: Captioner) -> dict[str, Any]:
    """Sizes, and how captions are sampled: noise levels as numbers, so that no schedule is needed to follow them.

    Raises:
        InputError: the settings need a solver or a wrapper that the page does not have.
    """
    how, sampler = captioner.defaults, captioner.sampler(captioner.defaults)
    needed = {"solver": "renoise", "guidance": 0, "early_exit": 0, "refine": 0, "time_offset": 0, "candidates": 1}
    for name, value in needed.items():
        if (found := getattr(how, name)) != value:
            raise InputError(
                f"sampling.{name}={found}: the page samples with {name}={value} alone; "
                f"save the captioner with that first"
            )
    if (predicts := sampler.noise.prediction_type) != "x0":
        raise InputError(f"diffusion.prediction_type={predicts}: the page reads predictions of x0 alone")
    times = sampler.times[:-1]
    scales = [[float(one) for one in sampler.noise.scales(t)] for t in times]
    return {
        "image_size": int(captioner.config.vision["image_size"]),
        "positions": captioner.length,
        "dim": int(captioner.text.dim),
        "longest": longest(captioner),
        "sampling": {
            "start": sampler.start,
            "times": list(times),
            "signal": [signal for signal, _ in scales],
            "noise": [noise for _, noise in scales],
            "self_condition": sampler.self_condition,
            "length": how.length,
        },
    }


def longest(captioner: Captioner) -> int:
    """Words of the longest caption that can be asked for; 0 where lengths cannot be."""
    return captioner.length - 2 if "mask" in captioner.config.tokens else 0


def vocabulary(captioner: Captioner, tokenizer: Any) -> dict[str, Any]:
    """Each token's text, which tokens are no words, and which are words by themselves ("1") or not ("0")."""
    special = captioner.text.special_ids
    ids = tokenizer.get_vocab()
    size = max(ids.values()) + 1
    return {
        "pieces": tokenizer.convert_ids_to_tokens(list(range(size))),
        "special": list(special),
        "whole": "".join("1" if one else "0" for one in word_ids(tokenizer, special, size).tolist()),
    }


def length_latents(captioner: Captioner) -> Float[np.ndarray, "lengths positions dim"]:
    """What the denoiser is told of a caption of 1, 2, 3 ... words: the latents of all its other positions."""
    requests = [CaptionRequest(0, length=length) for length in range(1, longest(captioner) + 1)]
    fixed = captioner.fixed_lengths(requests) if requests else None
    if fixed is None:
        return np.zeros((0, captioner.length, captioner.text.dim), np.float32)
    return torch.where(fixed.mask[..., None], fixed.latent, 0.0).numpy()


def small_graphs(captioner: Captioner, bits: int | None) -> dict[str, bytes]:
    """The graphs as files, without what stands for no photo, which only guidance reads."""
    import onnx

    stamp, files = digest(captioner), {}
    with tempfile.TemporaryDirectory() as folder:
        for graph in graphs_of(captioner):
            if graph.name in SHARED:
                file = graph_file(Path(folder), graph.name)
                write_graph(_of_photos(graph), file, stamp, captioner)
                model = onnx.load(file)
                files[graph.name] = (packed(model, bits) if bits else model).SerializeToString()
    return files


def packed(model: ModelProto, bits: int) -> ModelProto:
    """The same graph with large arrays of weights as whole numbers of ``bits`` bits, one scale an output channel.

    Numbers are stored as two arrays of bytes, the upper bits and the lower four, each of which compresses to about
    its entropy. A reader restores float32 once, when it opens the graph, and computes in that.
    """
    import onnx
    from onnx import numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    products = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    arrays = {"bits.low": np.array(2.0**LOW_BITS, np.float32)}
    nodes: list[Any] = []
    kept = []
    for one in graph.initializer:
        weight = numpy_helper.to_array(one)
        if weight.dtype != np.float32 or weight.ndim < 2 or weight.size < LEAST_WEIGHTS:
            kept.append(one)
            continue
        high, low, scale = split(weight, bits, channel=-1 if one.name in products else 0)
        arrays |= {f"{one.name}.high": high, f"{one.name}.low": low, f"{one.name}.scale": scale}
        nodes += _restored(one.name)
    nodes += graph.node
    new = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *new])
    return made


def split(
    weight: Float[np.ndarray, "..."], bits: int, channel: int
) -> tuple[Int8[np.ndarray, "..."], Int8[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """An array as whole numbers of ``bits`` bits, 16 * high + low, and their scale along one axis.

    Returns:
        high, low (-8 .. 7), and the scale, shaped to multiply the array.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis != channel % weight.ndim)
    scale = np.maximum(np.abs(weight).max(others, keepdims=True), LEAST) / (2 ** (bits - 1) - 1)
    whole = np.round(weight / scale).astype(np.int32)
    half = 2 ** (LOW_BITS - 1)
    high = (whole + half) >> LOW_BITS
    return high.astype(np.int8), (whole - (high << LOW_BITS)).astype(np.int8), scale.astype(np.float32)


def compressed(content: bytes) -> bytes:
    """The content in gzip's format, by whichever of zlib's strategies makes least of it; the same bytes each time."""
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy)
        found.append(packer.compress(content) + packer.flush())
    return min(found, key=len)


def _of_photos(graph: Graph) -> Graph:
    """The graph without outputs of no photo."""
    kept = [name for name in graph.outputs if not name.startswith("null_")]

    def compute(*inputs: Any) -> Any:
        found = graph.compute(*inputs)
        return found[: len(kept)] if isinstance(found, list) else found

    return dataclasses.replace(graph, compute=compute, outputs=kept)


def _restored(name: str) -> list[Any]:
    """Nodes that make an array of its numbers and scale: constants, which a reader computes once."""
    from onnx import helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes)

    return [
        node("Cast", [f"{name}.high"], f"{name}.upper", to=1),  # 1: float32
        node("Cast", [f"{name}.low"], f"{name}.lower", to=1),
        node("Mul", [f"{name}.upper", "bits.low"], f"{name}.shifted"),
        node("Add", [f"{name}.shifted", f"{name}.lower"], f"{name}.whole"),
        node("Mul", [f"{name}.whole", f"{name}.scale"], name),
    ]
