"""A training run on one page: losses, learning rate, scores, and what the model said about a photo as it learned."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from clearcap.captioner.folder import SAMPLES
from clearcap.data.reading import member, read_jsonl
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.evaluation.files import number

INK, SOFT, GRID = "#1a1a19", "#6b6a65", "#e3e2dd"
BLUE, ORANGE, GREEN = "#2a78d6", "#d1650a", "#1b8a5a"
SAID = 7  # evaluations whose captions are shown


def plot_training(curves: Path, path: Path) -> None:
    """Plot a run.

    Args:
        curves: ``curves.jsonl`` of the run; ``samples.jsonl`` beside it, if there, gives scores and captions.
        path: of the picture; its suffix says the format.

    Raises:
        InputError: the curves are missing, empty or damaged.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    measures = read_run(curves, ("latent", "caption", "lr"))
    if not measures:
        raise InputError(f"{curves} holds no step yet; train longer")
    beside = curves.with_name(SAMPLES)
    samples = read_run(beside, ()) if beside.is_file() else []

    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.12)  # inches
    figure = Figure(figsize=(13, 9.6 if samples else 4.6), layout=layout, facecolor="white")
    title = f"Training: {measures[-1]['step']:,} steps in {_seconds(measures) / 3600:.1f} hours"
    figure.suptitle(title, x=0.012, ha="left", fontsize=17, color=INK, weight="bold")
    grid = figure.add_gridspec(3 if samples else 1, 3, height_ratios=[1, 1, 0.95] if samples else None)
    steps = [one["step"] for one in measures]
    for column, (key, title) in enumerate((("latent", "Latent loss"), ("caption", "Caption loss"))):
        axes, values = figure.add_subplot(grid[0, column]), [one[key] for one in measures]
        smooth = smoothed(values)
        axes.plot(steps, values, color=BLUE, linewidth=0.8, alpha=0.3)
        axes.plot(steps, smooth, color=BLUE, linewidth=2)
        axes.set_ylim(*_view(smooth))
        _dress(axes, title, f"{smooth[-1]:.3f}")
    axes, rates = figure.add_subplot(grid[0, 2]), [one["lr"] for one in measures]
    axes.plot(steps, rates, color=SOFT, linewidth=2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _dress(axes, "Learning rate", f"peak {max(rates):.2g}")
    if samples:
        scored = (("CIDEr-D", ORANGE), ("BLEU-4", GREEN), ("distinct", SOFT))
        for column, (key, colour) in enumerate(scored):
            axes = figure.add_subplot(grid[1, column])
            held = [(one["step"], one["scores"][key]) for one in samples if key in one["scores"]]
            if held:
                axes.plot(*zip(*held, strict=True), color=colour, linewidth=2, marker="o", markersize=4)
                axes.set_xlim(0, steps[-1] * 1.03)
                axes.set_ylim(0, max(value for _, value in held) * 1.12 or 1)
            title = "Share of distinct captions" if key == "distinct" else f"{key} of the watched photos"
            _dress(axes, title, f"{held[-1][1]:.3f}" if held else "")
        _captions(figure.add_subplot(grid[2, :]), samples)
    try:
        with whole_file(path) as fresh:
            figure.savefig(fresh, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written ({error}); give a .png, .svg or .pdf path") from error


def read_run(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of a run's file by step; of steps written twice, because the run was killed and resumed, the last.

    Raises:
        InputError: a line is damaged, or lacks ``step`` or one of ``keys``.
    """
    found: dict[int, dict[str, Any]] = {}
    for where, record in read_jsonl(path, "name the curves.jsonl of a training run"):
        step = member(record, "step", int, where)
        for key in keys:
            number(record, key, where)
        found[step] = record
    return [found[step] for step in sorted(found)]


def smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Mean over this share of the run around each step, without the lag that a trailing mean has."""
    reach = max(1, round(share * len(values) / 2))
    total = [0.0, *accumulate(values)]
    ends = [(max(0, place - reach), min(len(values), place + reach + 1)) for place in range(len(values))]
    return [(total[end] - total[start]) / (end - start) for start, end in ends]


def _seconds(measures: Sequence[dict[str, Any]]) -> float:
    """Time of the whole run: each resumption starts its clock anew."""
    clock = [float(one.get("seconds", 0.0)) for one in measures]
    ends = [before for before, after in pairwise(clock) if after < before]
    return sum(ends) + clock[-1]


def _view(values: Sequence[float]) -> tuple[float, float]:
    """The range that shows the run after its first steep twentieth."""
    later = values[len(values) // 20 :]
    low, high = min(later), max(later)
    room = 0.08 * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def _dress(axes: Any, title: str, latest: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11.5, color=INK)
    axes.set_title(latest, loc="right", fontsize=11.5, color=INK, weight="bold")
    axes.set_xlabel("step", color=SOFT)
    axes.tick_params(colors=SOFT, length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)


def _captions(axes: Any, samples: Sequence[dict[str, Any]]) -> None:
    """What was said about the first two watched photos, from the first evaluation to the last."""
    axes.axis("off")
    axes.set_title("What it said as it learned", loc="left", fontsize=11.5, color=INK)
    places = sorted({round(place * (len(samples) - 1) / max(SAID - 1, 1)) for place in range(SAID)})
    photos = list(samples[-1].get("captions", {}))[:2]
    style: dict[str, Any] = {"fontsize": 10, "transform": axes.transAxes, "va": "top"}
    for column, photo in enumerate(photos):
        left = 0.062 + 0.475 * column
        axes.text(left, 0.96, textwrap.shorten(photo, 48), color=SOFT, **style)
        for row, place in enumerate(places):
            y = 0.84 - 0.125 * row
            one = samples[place]
            if not column:
                axes.text(0.052, y, f"{one['step']:,}", color=SOFT, ha="right", **style)
            said = textwrap.shorten(one.get("captions", {}).get(photo, ""), 74, placeholder=" …")
            weight = "bold" if place == places[-1] else "normal"
            axes.text(left, y, said, color=INK, weight=weight, **style)
