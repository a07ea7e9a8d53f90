"""Watching a caption appear: its words and their probabilities after each step, as data, picture or GIF."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from clearcap.arrays import Array
from clearcap.captioner.generating import CaptionModel, CaptionRequest
from clearcap.config import SamplingConfig
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.text.tokenizer import decode_caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from rich.table import Table


@dataclass(frozen=True)
class Frame:
    """The caption as the denoiser predicted it at one step.

    Attributes:
        index: 0 for the first step; -1 for the noise before it.
        t: noise level it was predicted from.
        text: the caption.
        words: each word and its probability.
        tokens: each position's token ("" where no word stands) and its probability.
    """

    index: int
    t: int
    text: str
    words: tuple[tuple[str, float], ...]
    tokens: tuple[tuple[str, float], ...]


def trajectory(
    captioner: CaptionModel,
    tokenizer: Any,
    image: Float[Array, "1 tokens image_dim"],
    *,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    show: Callable[[Sequence[Frame]], None] = lambda frames: None,
    noise: bool = False,
) -> list[Frame]:
    """The caption of one photo at each step; the last frame says what ``generate`` returns.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        image: the photo's image tokens.
        seed: as for ``generate``.
        sampling: as for ``generate``; the first candidate alone is sampled.
        show: given all frames so far after each step, to show them while it runs.
        noise: whether a frame before the first step shows the noise itself, read as words.
    """
    frames: list[Frame] = []
    how = dataclasses.replace(sampling or captioner.defaults, candidates=1)

    def watch(step: int, t: int, tensors: dict[str, Array]) -> dict[str, Array]:
        if noise and step == 0:
            frames.append(read_step(captioner, tokenizer, -1, t, tensors["noisy"]))
        frames.append(read_step(captioner, tokenizer, step, t, tensors["latents"], how.once))
        show(frames)
        return {}

    captioner.generate(image=image, seed=seed, sampling=how, callback_on_step_end=watch)
    return frames


def read_step(
    captioner: CaptionModel,
    tokenizer: Any,
    index: int,
    t: int,
    x0: Float[Array, "captions length dim"],
    once: bool = False,
) -> Frame:
    """What the first caption of the batch says at a step; with ``once`` each word of content once."""
    read = captioner.read(x0[:1], [CaptionRequest(photo=0)], once=once)
    ids, confidence = read.ids[0, 0], read.confidence[0, 0]
    special = captioner.text.special_ids
    decoded = decode_caption(tokenizer, ids.tolist(), special, confidence.tolist())
    pieces = tokenizer.convert_ids_to_tokens(ids.tolist())
    shown = ["" if i in special else piece for i, piece in zip(ids.tolist(), pieces, strict=True)]
    return Frame(
        index=index,
        t=t,
        text=decoded.text,
        words=tuple(zip(decoded.words, decoded.confidence, strict=True)),
        tokens=tuple(zip(shown, confidence.tolist(), strict=True)),
    )


def step_name(frame: Frame) -> str:
    """The number of a frame's step, from 1; "noise" before it."""
    return "noise" if frame.index < 0 else str(frame.index + 1)


def colour(confidence: float) -> tuple[int, int, int]:
    """Red (a guess) over amber to green (certain), as 8-bit RGB that reads on dark and light grounds."""
    guess, middle, certain = (200, 60, 50), (196, 130, 0), (30, 140, 70)
    p = min(1.0, max(0.0, confidence))
    low, high, share = (guess, middle, 2 * p) if p < 0.5 else (middle, certain, 2 * p - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def table(frames: Sequence[Frame], rows: int = 0) -> Table:
    """The frames as a rich table, one line a step, words coloured by confidence.

    Args:
        frames: steps so far.
        rows: lines of the finished table, so that a live display does not jump; 0 for as many as there are.
    """
    from rich.table import Table
    from rich.text import Text

    shown = Table("step", "noise", "caption", "confidence", box=None, pad_edge=False, expand=False)
    for frame in frames:
        line = Text()
        for word, p in frame.words:
            line.append(word + " ", style="rgb({},{},{})".format(*colour(p)))
        mean = sum(p for _, p in frame.words) / max(1, len(frame.words))
        shown.add_row(step_name(frame), str(frame.t), line, f"{mean:.2f}")
    for _ in range(rows - len(frames)):
        shown.add_row("", "", "", "")
    return shown


def plot(frames: Sequence[Frame], photo: Image | None = None, shown: int | None = None) -> Figure:
    """The frames as a figure: a line a step, a column a position, beside the photo if there is one.

    Args:
        frames: all steps; they set the size.
        photo: shown on the left.
        shown: steps whose words are shown; default all.

    Raises:
        InputError: there are no frames.
    """
    from matplotlib.figure import Figure

    if not frames:
        raise InputError("no steps to plot; pass what trajectory() returned")
    used = max((i + 1 for f in frames for i, (token, _) in enumerate(f.tokens) if token), default=1)
    height = 0.32 * len(frames) + 0.9
    figure = Figure(figsize=(1.0 * used + 0.9 + (height if photo else 0), height), layout="constrained")
    if photo:
        left, axes = figure.subplots(1, 2, width_ratios=(height, 1.0 * used + 0.9))
        left.imshow(photo)
        left.axis("off")
    else:
        axes = figure.subplots()
    for row, frame in enumerate(frames[:shown]):
        for column, (token, p) in enumerate(frame.tokens[:used]):
            shade = tuple(level / 255 for level in colour(p))
            axes.text(column, row, token, color=shade, ha="center", va="center", fontsize=9, parse_math=False)
    axes.set(xlim=(-0.6, used - 0.4), ylim=(len(frames) - 0.4, -0.6), xticks=[], xlabel="position")
    axes.set_yticks(
        range(len(frames)), [f"{step_name(frame)}  (t = {frame.t})" for frame in frames], fontsize=8
    )
    axes.set_title("each step's words, from red (a guess) to green (certain)", fontsize=9)
    axes.spines[:].set_visible(False)
    return figure


def save_picture(frames: Sequence[Frame], path: str | Path, photo: Image | None = None) -> None:
    """Write ``plot`` as a picture (``.png``, ``.svg``, ``.pdf``), or as an animation (``.gif``).

    Raises:
        InputError: the suffix names no format that can be written, or there are no frames.
    """
    from PIL.Image import Dither

    path = Path(path)
    check_picture(path)
    with whole_file(path) as fresh:
        if path.suffix.lower() != ".gif":
            plot(frames, photo).savefig(fresh, dpi=150)
            return
        pictures = animate(frames, photo)
        palette = pictures[-1].quantize(64)  # of every word; what stays is written once
        pictures = [picture.quantize(palette=palette, dither=Dither.NONE) for picture in pictures]
        pauses = [500] * (len(pictures) - 1) + [3000]  # ms
        pictures[0].save(fresh, save_all=True, append_images=pictures[1:], duration=pauses, loop=0)


def check_picture(path: Path) -> None:
    """Raise InputError unless ``save_picture`` can write there, for whoever works long before it does."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf", ".gif"):
        raise InputError(f"{path}: trajectories are written as .png, .svg, .pdf or .gif; rename the file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written; name another file")


def animate(frames: Sequence[Frame], photo: Image | None = None) -> list[Image]:
    """One picture a step, all of one size: the steps so far, the later ones blank."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    pictures = []
    for shown in range(1, len(frames) + 1):
        canvas = FigureCanvasAgg(plot(frames, photo, shown))
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return pictures
