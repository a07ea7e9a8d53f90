"""A gallery in the manner of LaDiC's Figures 2c, 9 and 11: captions to order, and captions coming out of the noise.

``python -m benchmarks.gallery docs`` writes ``docs/gallery.md`` and ``docs/gallery.png`` from the public-domain photo
that ships. ``--data flickr8k:DIR:dev`` measures Figure 9's squared error by step over the first photos of a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from clearcap import CaptionPipeline
from clearcap.bench.latency import sample_photo
from clearcap.data.corpus import open_spec
from clearcap.data.writing import write_text
from clearcap.pipeline.infilling import keyword_templates
from clearcap.pipeline.words import small

STEPS = 10
ORDERS = (
    ("begins with", "there is a ___{3,9}"),
    ("ends with", "___{4,10} in the background"),
    ("words in the middle", "___{2,5} wearing glasses and ___{1,5}"),
    ("blanks", "a ___ with a ___ and a ___"),
)
KEYWORD = "hat"
LENGTHS = (5, 8, 12, 16)
COLOURS = 96


def main(
    docs: Annotated[Path, typer.Argument(help="folder for gallery.md and gallery.png")],
    data: Annotated[str, typer.Option(help="corpus to measure squared errors on, too")] = "",
    limit: Annotated[int, typer.Option(help="photos of it")] = 64,
) -> None:
    """Write the gallery."""
    pipeline, photo = CaptionPipeline.from_pretrained(backend="prepacked"), sample_photo()
    small(photo, 240).quantize(COLOURS).save(docs / "gallery.png", optimize=True)
    said = {"nothing": pipeline(photo).caption}
    said |= {f"{what}: `{order}`": pipeline.fill(photo, order).text for what, order in ORDERS}
    said[f"the word `{KEYWORD}`"] = pipeline.fill(photo, keyword_templates([KEYWORD], 8, 12)).text
    said |= {f"{length} words": pipeline(photo, length=length).caption for length in LENGTHS}
    lines = [
        "# Captions to order",
        "",
        "Written by `python -m benchmarks.gallery`; the bundled model, seed 0. As in LaDiC's Figures 2c and 11:",
        "words may be given anywhere, or a length, and the rest is written around them at once. Given words make poor",
        "captions, too: nothing here is chosen.",
        "",
        "![the photo](gallery.png)",
        "",
        "| asked for | caption |",
        "|---|---|",
        *(f"| {what} | {caption} |" for what, caption in said.items()),
        "",
        *steps_of(pipeline, photo, data, limit),
    ]
    write_text(docs / "gallery.md", "\n".join(lines) + "\n")


def steps_of(pipeline: CaptionPipeline, photo: Path, data: str, limit: int) -> list[str]:
    """What is said after every step, and how far the prediction then is from the last one."""
    how: dict[str, Any] = {"steps": STEPS, "candidates": 1}
    frames = pipeline.trajectory(photo, **how)
    if data:
        split = open_spec(data)
        errors = squared_errors(pipeline, [one.image for one in split.photos[:limit]], how)
        about = f"the first {limit} photos of {split.name} {split.split}"
    else:
        errors, about = squared_errors(pipeline, [str(photo)], how), "this photo"
    lines = [
        "## Step by step",
        "",
        f"As in LaDiC's Figure 9, {STEPS} steps. The squared error is that of a step's prediction to the last one, a",
        f"mean over positions and channels of a latent whose channels have a variance of about 1, on {about}.",
        "",
        "| step | squared error | caption |",
        "|---|---|---|",
    ]
    return lines + [f"| {n + 1} | {errors[n]:.3f} | {frames[n].text} |" for n in range(STEPS)]


def squared_errors(pipeline: CaptionPipeline, photos: list[Any], how: dict[str, Any]) -> np.ndarray:
    """Mean squared difference of each step's prediction to the last one."""
    tokens, seen = pipeline.encode_all(photos), []

    def note(step: int, t: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(np.asarray(tensors["latents"], dtype=np.float64))
        return {}

    pipeline.captioner.generate(image=tokens, sampling=pipeline.sampling(**how), callback_on_step_end=note)
    return np.array([((one - seen[-1]) ** 2).mean() for one in seen])


if __name__ == "__main__":
    typer.run(main)
