"""What onnxruntime and torch say of the same photos with the same seed: captions, choices among candidates, fillings.

    python -m benchmarks.equality --data flickr8k:DIR:dev --limit 1000

Prints the share of those that are equal, and both sides of each one that is not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from clearcap.data.corpus import open_spec
from clearcap.data.images import open_image, to_square
from clearcap.pipeline import CaptionPipeline

BACKENDS = ("torch", "onnx")
TEMPLATE = "a ___ ___ on the ___"
Say = Callable[[CaptionPipeline, list[np.ndarray], int], list[Any]]


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


WAYS: dict[str, Say] = {"captions": captions, "MBR of 10": choices, "fillings": fillings}


def differing(
    pipelines: dict[str, CaptionPipeline], say: Say, photos: Iterator[np.ndarray], seed: int
) -> tuple[int, list[tuple[Any, Any]]]:
    """How many photos there were, and what was said of those of which the two do not say the same."""
    total, found = 0, []
    while batch := list(islice(photos, 16)):
        mine, theirs = (say(pipelines[name], batch, seed) for name in BACKENDS)
        total += len(batch)
        found += [pair for pair in zip(mine, theirs, strict=True) if pair[0] != pair[1]]
    return total, found


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="corpus NAME:ROOT:SPLIT")
    parser.add_argument("--model", default="default", help="folder or hub name")
    parser.add_argument("--limit", type=int, default=1000, help="photos")
    parser.add_argument("--seed", type=int, default=0, help="of both")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    asked = parser.parse_args()
    pipelines = {name: CaptionPipeline.from_pretrained(asked.model, backend=name) for name in BACKENDS}
    size = pipelines["onnx"].image_size
    chosen = open_spec(asked.data, expected=None).photos[: asked.limit]
    for way in asked.ways:
        photos = (to_square(open_image(one.image, at_least=size), size) for one in chosen)
        total, pairs = differing(pipelines, WAYS[way], photos, asked.seed)
        print(f"{way}: {total - len(pairs):,} of {total:,} equal ({1 - len(pairs) / total:.2%})", flush=True)
        for mine, theirs in pairs:
            print(f"  torch {mine}\n  onnx  {theirs}")


if __name__ == "__main__":
    main()
