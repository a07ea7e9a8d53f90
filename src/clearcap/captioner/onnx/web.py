"""A trained captioner as files for a browser: small graphs, and all else that its captions depend on as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from PIL import Image
from torch import Tensor

from clearcap.captioner.generating import CaptionRequest
from clearcap.captioner.model import Captioner, load_captioner
from clearcap.captioner.onnx import graph_file
from clearcap.captioner.onnx.export import Graph, digest, graphs_of, require_onnx, write_graph
from clearcap.data.images import open_image, to_square
from clearcap.data.writing import whole_folder
from clearcap.errors import InputError
from clearcap.sampling.randomness import randn_rows
from clearcap.text.tokenizer import word_ids

if TYPE_CHECKING:
    from onnx import ModelProto

FORMAT = "4"  # of the files; the page refuses those of another
MEGABYTES = 19.2  # of weights, with which the graphs stay below 20
LEAST_WEIGHTS = 2000  # an array of fewer stays float32
PHOTOS = 64  # that weights' precision is measured with
LEAST_SHARE = (0.25, 0.25)  # of the mean, that a row's and a column's sensitivity is taken as at least
TOKENS = ("cls", "sep", "pad", "mask")  # that stand around words and for them
PLAIN = 127  # whole numbers of a row's greatest weight where no sensitivity is known
GZIP = b"\x1f\x8b\x08" + bytes(5) + b"\x02\xff"  # a head without name and time
COARSEST, FINEST = 7, 2**14  # whole numbers of a row's greatest weight


def export_web(
    source: str, out: Path, *, photos: Sequence[Any] = (), megabytes: float | None = MEGABYTES
) -> None:
    """Write what the page in ``web/`` captions with.

    The graphs (compressed, which a page undoes) and ``captioner.json``: noise levels, candidates' lengths, vocabulary,
    sizes. The page has one solver; settings that need more are refused.

    Args:
        source: folder or hub name of a trained captioner.
        out: folder to write.
        photos: of any kind, at most the first 64, by which it is measured how exact each weight must be; where they are
            fewer, parts of them are taken, too.
        megabytes: that weights take; None leaves all in float32.

    Raises:
        InputError: no such captioner, its sampling settings are not the page's, a photo cannot be read, there is none
            to round weights by, or the extra ``onnx`` is not installed.
    """
    require_onnx()
    captioner, tokenizer = load_captioner(source)
    captioner.vision = captioner.vision.folded()
    stamp = digest(captioner)
    about = settings(captioner) | {
        "format": FORMAT,
        "stamp": stamp,
        "megabytes": megabytes,
        "vocabulary": vocabulary(captioner, tokenizer),
    }
    codes: dict[str, Code] = {}
    if megabytes:
        codes = round_weights(captioner, squares(captioner, photos), megabytes)
    files = {f"{name}.onnx.gz": graph for name, graph in small_graphs(captioner, codes, stamp).items()}
    with whole_folder(out) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        about["files"] = {name: (fresh / name).stat().st_size for name in files}
        (fresh / "captioner.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def settings(captioner: Captioner) -> dict[str, Any]:
    """Sizes, and how captions are sampled: noise levels as numbers, so that no schedule is needed to follow them.

    Raises:
        InputError: the settings need a solver or a wrapper that the page does not have.
    """
    how, sampler = captioner.defaults, captioner.sampler(captioner.defaults)
    needed = {
        "solver": "renoise",
        "guidance": 0,
        "early_exit": 0,
        "refine": 0,
        "time_offset": 0,
    }
    if how.candidates > 1:
        needed["select"] = "confidence"
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
            "clamp": sampler.clamp,
            "once": sampler.once,
            "lengths": [how.length_of(candidate) for candidate in range(how.candidates)],
            "select": how.select if how.candidates > 1 else "confidence",
            "length_penalty": how.length_penalty,
            "function_words": sorted(captioner.function_words),
        },
    }


def longest(captioner: Captioner) -> int:
    """Words of the longest caption that can be asked for; 0 where lengths cannot be."""
    return captioner.length - 2 if "mask" in captioner.config.tokens else 0


def vocabulary(captioner: Captioner, tokenizer: Any) -> dict[str, Any]:
    """Tokens' texts; which are no words, which are words by themselves ("1") or not ("0"), which may be
    said twice, which stand for words."""
    special = captioner.text.special_ids
    ids = tokenizer.get_vocab()
    size = max(ids.values()) + 1
    return {
        "pieces": tokenizer.convert_ids_to_tokens(list(range(size))),
        "special": list(special),
        "often": sorted(captioner.often),
        "whole": "".join("1" if one else "0" for one in word_ids(tokenizer, special, size).tolist()),
        "tokens": {name: captioner.config.tokens[name] for name in TOKENS if name in captioner.config.tokens},
    }


def squares(captioner: Captioner, photos: Sequence[Any]) -> Float[Tensor, "photos 3 size size"]:
    """``PHOTOS`` photos as the captioner sees them, or these and parts of them at random. Raises InputError."""
    if not photos:
        raise InputError("no photos to round the weights by; pass at least one")
    size, chance = int(captioner.config.vision["image_size"]), np.random.default_rng(0)
    opened = [open_image(photo) for photo in photos[:PHOTOS]]
    parts = [_part(opened[i % len(opened)], chance) for i in range(PHOTOS - len(opened))]
    read = [to_square(photo, size) for photo in [*opened, *parts]]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float() / 255


def _part(photo: Image.Image, chance: np.random.Generator) -> Image.Image:
    """A part of a photo, of a fifth of its area at least."""
    share = math.sqrt(chance.uniform(0.2, 1))
    width, height = (max(1, round(side * share)) for side in photo.size)
    left, top = (
        int(chance.integers(side - part + 1)) for side, part in zip(photo.size, (width, height), strict=True)
    )
    return photo.crop((left, top, left + width, top + height))


def round_weights(
    captioner: Captioner, pixels: Float[Tensor, "photos 3 size size"], megabytes: float
) -> dict[str, Code]:
    """Round a captioner's weights, in place, so that they take so many megabytes and change least of what it says.

    The encoder of words is frozen, so that no sensitivity tells how exact it must be: it has plain steps.
    """
    sensitive = sensitivity(captioner, pixels)
    codes = encode_plainly(captioner, _large(captioner).keys() - sensitive.keys())
    megabytes -= sum(entropy(code.whole) for code in codes.values()) / 8e6
    return codes | encode_weights(captioner, sensitive, megabytes)


def _large(captioner: Captioner) -> dict[str, torch.nn.Parameter]:
    """The arrays of weights that are worth rounding."""
    return {
        name: weight
        for name, weight in captioner.named_parameters()
        if weight.ndim > 1 and len(weight) > 1 and weight.numel() >= LEAST_WEIGHTS
    }


def sensitivity(
    captioner: Captioner, pixels: Float[Tensor, "photos 3 size size"]
) -> dict[str, Float[np.ndarray, "..."]]:
    """How much a small error of each weight would change which words are said: a number a weight.

    It is the diagonal of the Fisher information of the words' probabilities (Martens 2020, section 5), after every call
    of the denoiser and in all candidates: with the squared errors of the weights it adds up to twice the divergence of
    the new probabilities from the old. One backward pass a photo estimates it, of logits weighted at random so that the
    weights' covariance is the probabilities' own.
    """
    sampler, draw = captioner.sampler(captioner.defaults), torch.Generator().manual_seed(0)
    how = captioner.defaults
    requests = [CaptionRequest(0, i, how.length_of(i)) for i in range(how.candidates)]
    weights = _large(captioner)
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    vocab = int(captioner.config.bert["vocab_size"])
    words = [token for token in range(vocab) if token not in captioner.text.special_ids]
    for weight in weights.values():
        weight.requires_grad_(True)
    for seed, photo in enumerate(pixels.split(1)):
        probes: list[Tensor] = []

        def probe(
            step: int, t: int, tensors: dict[str, Any], probes: list[Tensor] = probes
        ) -> dict[str, Any]:
            logits = captioner.logits(tensors["latents"])
            probes.extend(
                _probe(row[1 : request.length + 1, words] if request.length else row, draw)
                for row, request in zip(logits, requests, strict=True)
            )
            return {}

        known = captioner.fixed_lengths(requests)
        sampler.run(
            captioner.denoise_of_rows(captioner.encode_image(photo), requests, sampler),
            captioner.logits,
            randn_rows(seed, range(len(requests)), captioner.length, captioner.text.dim, captioner.asarray),
            known,
            probe,
            partial(captioner.nearest_words, known=known, once=sampler.once),
        )
        gradients = torch.autograd.grad(torch.stack(probes).sum(), list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                found[name] += gradient.square() / len(pixels)
    return {name: one.detach().numpy() for name, one in found.items() if bool(one.any())}


def _probe(logits: Float[Tensor, "words vocab"], draw: torch.Generator) -> Float[Tensor, ""]:
    """Logits weighted by a random vector of covariance diag(p) - p p', the Fisher information of logits."""
    p = logits.detach().softmax(-1)
    root, noise = p.sqrt(), torch.randn(p.shape, generator=draw)
    return ((root * noise - p * (root * noise).sum(-1, keepdim=True)) * logits).sum()


@dataclasses.dataclass(frozen=True)
class Code:
    """An array of weights as whole numbers and their steps: weight = whole * rows * columns.

    Attributes:
        whole: the numbers.
        rows: a step for each output.
        columns: a factor for each input, around 1.
    """

    whole: Int32[np.ndarray, "..."]
    rows: Float[np.ndarray, "..."]
    columns: Float[np.ndarray, "..."]

    def weights(self) -> Float[np.ndarray, "..."]:
        """What they stand for, as a graph computes it."""
        return (self.whole.astype(np.float32) * self.rows) * self.columns

    def transposed(self) -> Code:
        """The same of the transposed matrix."""
        return Code(self.whole.T, self.rows.T, self.columns.T)


def encode_weights(
    captioner: Captioner, sensitive: Mapping[str, np.ndarray], megabytes: float
) -> dict[str, Code]:
    """Round a captioner's weights, in place, so that they take so many megabytes and change least of what it says.

    The error of a step is the step's square times the sensitivity, its cost minus the step's logarithm; so at the
    best for a size all steps are one number over the square root of the sensitivity (of an output and an input).
    """
    parameters = dict(captioner.named_parameters())
    arrays = {name: parameters[name].detach().numpy() for name in sensitive}

    def codes_at(step: float) -> dict[str, Code]:
        return {name: encode(arrays[name], sensitive[name], step) for name in arrays}

    low, high = -20.0, 10.0  # logarithms of steps, that need more and less
    for _ in range(12):
        middle = (low + high) / 2
        size = sum(entropy(code.whole) for code in codes_at(2**middle).values()) / 8e6
        low, high = (middle, high) if size > megabytes else (low, middle)
    found = codes_at(2**high)
    for name, code in found.items():
        parameters[name].data.copy_(torch.from_numpy(code.weights()))
    return found


def encode_plainly(captioner: Captioner, names: Iterable[str]) -> dict[str, Code]:
    """Round arrays of a captioner, in place, to ``PLAIN`` steps up to a row's greatest weight."""
    parameters, found = dict(captioner.named_parameters()), {}
    for name in sorted(names):
        weight = parameters[name].detach().numpy()
        top = np.abs(weight).max(tuple(range(1, weight.ndim)), keepdims=True)
        steps = np.where(top > 0, top / PLAIN, 1).astype(np.float32)
        whole = np.rint(weight / steps).astype(np.int32)
        found[name] = Code(whole, steps, np.ones((1, *weight.shape[1:]), np.float32))
        parameters[name].data.copy_(torch.from_numpy(found[name].weights()))
    return found


def encode(weight: np.ndarray, sensitive: np.ndarray, step: float) -> Code:
    """Round one array: to the step over the root of the sensitivity, of each row and column."""
    inputs, (least_row, least_column) = tuple(range(1, weight.ndim)), LEAST_SHARE
    rows = sensitive.mean(inputs, keepdims=True)
    rows = np.maximum(rows, least_row * rows.mean())
    columns = (sensitive / rows).mean(0, keepdims=True)
    columns = np.maximum(columns / columns.mean(), least_column)
    factor = _quarters(1 / np.sqrt(columns))
    top = np.abs(weight / factor).max(inputs, keepdims=True)
    steps = np.clip(step / np.sqrt(rows), top / FINEST, top / COARSEST)
    steps = _quarters(np.where(top > 0, steps, 1))
    return Code(np.rint(weight / (steps * factor)).astype(np.int32), steps, factor)


def _quarters(numbers: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The nearest powers of two's fourth root: as good for steps, and few different ones take few bytes."""
    return (2 ** (np.rint(4 * np.log2(numbers)) / 4)).astype(np.float32)


def entropy(whole: Int32[np.ndarray, "..."]) -> float:
    """Bits that whole numbers take at least, each coded by how often it occurs."""
    counts = np.bincount(whole.ravel() - whole.min())
    counts = counts[counts > 0]
    return float(whole.size * np.log2(whole.size) - (counts * np.log2(counts)).sum())


def small_graphs(captioner: Captioner, codes: Mapping[str, Code], stamp: str) -> dict[str, bytes]:
    """The graphs as compressed files, without what stands for no photo, which only guidance reads."""
    import onnx

    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for graph in graphs_of(captioner):
            file = graph_file(Path(folder), graph.name)
            write_graph(_of_photos(graph), file, stamp, captioner)
            made = packed(onnx.load(file), list(codes.values()))
            arrays = [one.raw_data for one in made.graph.initializer if len(one.raw_data) >= LEAST_WEIGHTS]
            files[graph.name] = compressed(made.SerializeToString(), arrays)
    return files


def packed(model: ModelProto, codes: Sequence[Code]) -> ModelProto:
    """The same graph with arrays of weights as whole numbers, which take a byte each, or two where some are larger.

    A reader restores float32 once, when it opens the graph, and computes in that.
    """
    import onnx
    from onnx import numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    arrays: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    kept: list[Any] = []
    for one in graph.initializer:
        code = _code_of(numpy_helper.to_array(one), codes)
        if code is None:
            kept.append(one)
        else:
            nodes += _restored(one.name, code, arrays)
    nodes += graph.node
    new = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *new])
    return made


def _code_of(weight: np.ndarray, codes: Sequence[Code]) -> Code | None:
    """The code that stands for an array, or for its transpose, as a tracer folds it into a graph."""
    for code in codes:
        for one in (code, code.transposed()) if weight.ndim == 2 else (code,):
            if one.whole.shape == weight.shape and np.array_equal(one.weights(), weight):
                return one
    return None


def compressed(content: bytes, arrays: Iterable[bytes] = ()) -> bytes:
    """The content in gzip's format, each array in it by whichever of zlib's strategies makes least of it.

    An array has its own codes then, as if it was compressed alone: numbers of different steps are spread differently.
    """
    cuts = {0, len(content)}
    for array in arrays:
        start = content.index(array)
        cuts |= {start, start + len(array)}
    parts = [content[start:end] for start, end in pairwise(sorted(cuts))] or [b""]
    packed = [_deflated(part, last=i == len(parts) - 1) for i, part in enumerate(parts)]
    tail = struct.pack("<II", zlib.crc32(content), len(content) % 2**32)
    return GZIP + b"".join(packed) + tail


def _deflated(part: bytes, last: bool) -> bytes:
    """A part of a stream that zlib's readers take as one with those beside it."""
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        found.append(packer.compress(part) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH))
    return min(found, key=len)


def _of_photos(graph: Graph) -> Graph:
    """The graph without outputs of no photo."""
    kept = [name for name in graph.outputs if not name.startswith("null_")]

    def compute(*inputs: Any) -> Any:
        found = graph.compute(*inputs)
        return found[: len(kept)] if isinstance(found, list) else found

    return dataclasses.replace(graph, compute=compute, outputs=kept)


def _restored(name: str, code: Code, arrays: dict[str, np.ndarray]) -> list[Any]:
    """Nodes that make an array of its code: constants, which a reader computes once. Adds the constants to ``arrays``.

    Numbers beyond a byte are split into their upper bits and as few lower ones as leave a byte of the others: each of
    the two compresses to about its entropy.
    """
    from onnx import helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **attributes)

    low = max(int(np.abs(code.whole).max()).bit_length() - 7, 0)
    half = 2**low // 2
    high = (code.whole + half) >> low
    arrays |= {
        f"{name}.high": high.astype(np.int8),
        f"{name}.rows": code.rows,
        f"{name}.columns": code.columns,
    }
    nodes = [
        node("Cast", [f"{name}.high"], f"{name}.whole" if low == 0 else f"{name}.upper", to=1)
    ]  # 1: float32
    if low:
        arrays[f"{name}.low"] = (code.whole - (high << low)).astype(np.int8)
        arrays[f"{name}.unit"] = np.array(2.0**low, np.float32)
        nodes += [
            node("Cast", [f"{name}.low"], f"{name}.lower", to=1),
            node("Mul", [f"{name}.upper", f"{name}.unit"], f"{name}.shifted"),
            node("Add", [f"{name}.shifted", f"{name}.lower"], f"{name}.whole"),
        ]
    return [
        *nodes,
        node("Mul", [f"{name}.whole", f"{name}.rows"], f"{name}.scaled"),
        node("Mul", [f"{name}.scaled", f"{name}.columns"], name),
    ]
