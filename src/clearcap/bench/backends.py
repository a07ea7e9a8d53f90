"""One captioner in torch and as graphs, float32 to int8, side by side: time, equal tokens and scores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clearcap.captioner.network import Generated
from clearcap.captioner.onnx.export import export_graphs, quantize_graphs
from clearcap.data.images import open_image, to_square
from clearcap.data.records import CaptionedPhoto
from clearcap.evaluation.scores import Scored, compare_scored, score_captions
from clearcap.pipeline import CaptionPipeline

FIRST = "torch float32"  # what the others are compared with


@dataclass(frozen=True)
class Took:
    """Milliseconds on the clock, and of the processor's: what other jobs do to the first they hardly do to the second.

    Attributes:
        wall: from start to end.
        cpu: spent by this process, all threads together.
    """

    wall: float
    cpu: float


@dataclass
class Backend:
    """One way to run a captioner, and what it drew and took so far.

    Attributes:
        pipeline: photos to captions.
        alone: each run of one photo.
        together: each batch, a photo.
        ids: tokens of each batch.
        captions: photo -> caption.
    """

    pipeline: CaptionPipeline
    alone: list[Took] = field(default_factory=list)
    together: list[Took] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A backend's figures.

    Attributes:
        name: of the backend.
        alone: medians of one photo, pixels to token ids.
        together: medians a photo in a batch; None without photos of a corpus.
        tokens: share of token ids equal to the first backend's.
        photos: photos all of whose token ids are equal.
        cider: CIDEr-D.
        loss: CIDEr-D of the first backend minus this one's, with a paired 95% interval.
    """

    name: str
    alone: Took
    together: Took | None = None
    tokens: float | None = None
    photos: int | None = None
    cider: float | None = None
    loss: tuple[float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields, unrounded."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def open_backends(model: str, folder: Path) -> dict[str, Backend]:
    """All ways to run a captioner.

    Args:
        model: folder or hub name of a trained captioner, or "default".
        folder: where its graphs are written.

    Raises:
        InputError: no such captioner, or the extra ``onnx`` is not installed.
    """
    export_graphs(model, folder / "float32")
    quantize_graphs(folder / "float32", folder / "int8")
    load = CaptionPipeline.from_pretrained
    return {
        FIRST: Backend(load(model, device="cpu")),
        "torch packed": Backend(load(model, device="cpu", backend="prepacked")),
        "torch bfloat16": Backend(load(model, device="cpu", dtype=torch.bfloat16)),
        "onnx float32": Backend(load(folder / "float32")),
        "onnx int8": Backend(load(folder / "int8")),
    }


def compare_backends(
    backends: Mapping[str, Backend],
    photo: Path,
    corpus: Sequence[CaptionedPhoto] = (),
    *,
    batch_size: int = 16,
    repeats: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **how: Any,
) -> list[Row]:
    """Time all backends in turn, and compare what they say of the photos of a corpus.

    Args:
        backends: from ``open_backends``; the first is what the others are compared with.
        photo: captioned alone.
        corpus: photos with references; none: time only.
        batch_size: photos at once.
        repeats: timed runs of one photo, after two that are not counted.
        seed: same seed, same captions.
        progress: called with photos done and photos in all.
        how: fields of ``SamplingConfig``; one caption a photo is drawn.

    Raises:
        InputError: a photo cannot be read, or settings that do not exist.
    """
    size = int(next(iter(backends.values())).pipeline.captioner.config.vision["image_size"])
    alone = [to_square(open_image(photo, at_least=size), size)]
    for round_ in range(-2, repeats):
        for backend in _in_turn(backends, round_):
            _, took = _draw(backend, alone, seed, how)
            if round_ >= 0:
                backend.alone.append(took)
    references = {one.id: one.captions for one in corpus}
    for start in range(0, len(corpus), batch_size):
        batch = corpus[start : start + batch_size]
        squares = [to_square(open_image(one.image, at_least=size), size) for one in batch]
        for backend in _in_turn(backends, start // batch_size):
            drawn, took = _draw(backend, squares, seed, how)
            backend.together.append(Took(took.wall / len(batch), took.cpu / len(batch)))
            backend.ids.append(drawn)
            backend.captions |= {
                one.id: read(backend.pipeline, row) for one, row in zip(batch, drawn, strict=True)
            }
        progress(start + len(batch), len(corpus))
    return _rows(backends, references, seed)


def read(pipeline: CaptionPipeline, ids: np.ndarray) -> str:
    """The caption that token ids stand for."""
    ((caption,),) = pipeline.decode(Generated(ids[None, None], torch.ones(1, 1, len(ids))))
    return caption.text


def _in_turn(backends: Mapping[str, Backend], round_: int) -> list[Backend]:
    """All of them, another one first each round: what runs after what is then no advantage."""
    every = list(backends.values())
    first = round_ % len(every)
    return every[first:] + every[:first]


def _draw(
    backend: Backend, squares: Sequence[np.ndarray], seed: int, how: dict[str, Any]
) -> tuple[np.ndarray, Took]:
    """Token ids [photos, length] and time, from uint8 pixels on."""
    start, spent = time.perf_counter(), time.process_time()
    pipeline = backend.pipeline
    sampling = pipeline.sampling(**{**how, "candidates": 1})
    ids = pipeline.captioner.generate(pipeline.pixels(squares), seed=seed, sampling=sampling).ids[:, 0]
    return np.asarray(ids), Took((time.perf_counter() - start) * 1e3, (time.process_time() - spent) * 1e3)


def _median(times: Sequence[Took]) -> Took:
    return Took(statistics.median(one.wall for one in times), statistics.median(one.cpu for one in times))


def _rows(backends: Mapping[str, Backend], references: dict[str, tuple[str, ...]], seed: int) -> list[Row]:
    rows: list[Row] = []
    base: tuple[np.ndarray, Scored] | None = None
    for name, backend in backends.items():
        alone = _median(backend.alone)
        if not references:
            rows.append(Row(name, alone))
            continue
        ids = np.concatenate(backend.ids)
        scores = score_captions(backend.captions, references, metrics=["CIDEr-D"], seed=seed)
        base = base or (ids, scores)
        equal = ids == base[0]
        tokens, photos = float(equal.mean()), int(equal.all(-1).sum())
        difference = compare_scored([base[1]], [scores], seed=seed)["CIDEr-D"].difference
        loss = (difference.estimate, difference.low, difference.high)
        together, cider = _median(backend.together), scores.scores.corpus["CIDEr-D"]
        rows.append(Row(name, alone, together, tokens, photos, cider, loss))
    return rows
