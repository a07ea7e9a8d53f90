"""What the ways to run a captioner say of the same photos with the same seed: captions, choices, fillings.

    python -m benchmarks.equality --data flickr8k:DIR:dev --limit 1000
    python -m benchmarks.equality --data flickr8k:DIR:dev --ways said --backends torch prepacked bfloat16 onnx int8

Prints, of each backend, the share that is equal to the first one's, both sides of what is not, what it costs in
CIDEr-D, and processor time: all say a batch in turn, so that what else runs slows each of them.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clearcap.data.corpus import open_spec
from clearcap.data.images import open_image, to_square
from clearcap.data.records import CaptionedPhoto
from clearcap.evaluation.scores import compare_scored, score_captions
from clearcap.pipeline import CaptionPipeline

BACKENDS = ("torch", "prepacked", "bfloat16", "onnx", "int8")
TEMPLATE = "a ___ ___ on the ___"
Say = Callable[[CaptionPipeline, list[np.ndarray], int], list[Any]]


def said(pipeline: CaptionPipeline, photos: list[np.ndarray], seed: int) -> list[Any]:
    """The caption that a call gives: as many candidates as the model draws, and its own choice."""
    return [one.caption for one in pipeline(photos, seed=seed)]


def captions(pipeline: CaptionPipeline, photos: list[np.ndarray], seed: int) -> list[Any]:
    """Token ids of each photo's caption."""
    pixels = pipeline.pixels(photos)
    ids = pipeline.captioner.generate(pixels, seed=seed, sampling=pipeline.sampling(candidates=1)).ids
    return [tuple(row) for row in ids[:, 0].tolist()]


def choices(pipeline: CaptionPipeline, photos: list[np.ndarray], seed: int) -> list[Any]:
    """The caption of minimum Bayes risk of ten."""
    return [one.caption for one in pipeline(photos, seed=seed, candidates=10)]


def fillings(pipeline: CaptionPipeline, photos: list[np.ndarray], seed: int) -> list[Any]:
    """The template's words."""
    return [pipeline.fill(photo, TEMPLATE, seed=seed).words for photo in photos]


WAYS: dict[str, Say] = {"said": said, "captions": captions, "MBR of 10": choices, "fillings": fillings}


def opened(model: str, name: str, folder: Path) -> CaptionPipeline:
    """A model run in one of the ways; int8's graphs are written to a folder."""
    if name == "bfloat16":
        return CaptionPipeline.from_pretrained(model, backend="torch", dtype="bfloat16")
    if name == "int8":
        from clearcap.captioner.onnx.export import export_graphs

        export_graphs(model, folder, int8=True)
        return CaptionPipeline.from_pretrained(folder)
    return CaptionPipeline.from_pretrained(model, backend=name)


def compare(
    pipelines: dict[str, CaptionPipeline], say: Say, photos: Iterator[np.ndarray], seed: int
) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """What each says of every photo, and its processor time in milliseconds a photo."""
    found: dict[str, list[Any]] = {name: [] for name in pipelines}
    spent = dict.fromkeys(pipelines, 0.0)
    turn = deque(pipelines)
    while batch := list(islice(photos, 16)):
        for name in turn:
            start = time.process_time()
            found[name] += say(pipelines[name], batch, seed)
            spent[name] += time.process_time() - start
        turn.rotate()
    total = max(1, len(next(iter(found.values()))))
    return found, {name: seconds * 1e3 / total for name, seconds in spent.items()}


def loss(chosen: Sequence[CaptionedPhoto], first: Sequence[str], other: Sequence[str], seed: int) -> str:
    """CIDEr-D of the first captions minus that of the others, with a paired 95% interval."""
    references = {one.id: one.captions for one in chosen}
    scored = [
        score_captions(
            {one.id: caption for one, caption in zip(chosen, captions, strict=True)},
            references,
            metrics=["CIDEr-D"],
            seed=seed,
        )
        for captions in (first, other)
    ]
    found = compare_scored(scored[:1], scored[1:], seed=seed)["CIDEr-D"].difference
    whole = scored[0].scores.corpus["CIDEr-D"]
    return f"CIDEr-D {whole:.4f}, loss {found.estimate:.4f} ({found.low:.4f} to {found.high:.4f})"


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="corpus NAME:ROOT:SPLIT")
    parser.add_argument("--model", default="default", help="folder or hub name")
    parser.add_argument("--limit", type=int, default=1000, help="photos")
    parser.add_argument("--seed", type=int, default=0, help="of all")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--backends", nargs="*", default=["torch", "onnx"], choices=BACKENDS)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        pipelines = {name: opened(asked.model, name, Path(folder)) for name in asked.backends}
    first, *others = asked.backends
    size = pipelines[first].image_size
    chosen = open_spec(asked.data, expected=None).photos[: asked.limit]
    for way in asked.ways:
        photos = (to_square(open_image(one.image, at_least=size), size) for one in chosen)
        found, ms = compare(pipelines, WAYS[way], photos, asked.seed)
        print(f"{way}, {first}: {len(chosen):,} photos, {ms[first]:.1f} ms of the processor each", flush=True)
        for name in others:
            pairs = [pair for pair in zip(found[first], found[name], strict=True) if pair[0] != pair[1]]
            equal = len(chosen) - len(pairs)
            print(
                f"{way}, {name}: {equal:,} of {len(chosen):,} equal ({equal / len(chosen):.2%}), {ms[name]:.1f} ms"
            )
            if way == "said":
                print(f"  {loss(chosen, found[first], found[name], asked.seed)}")
            for mine, theirs in pairs:
                print(f"  {first} {mine}\n  {name} {theirs}", flush=True)


if __name__ == "__main__":
    main()
