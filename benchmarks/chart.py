"""The comparison as a picture: time against caption length, batch and candidates, and quality against time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison import Comparison
from benchmarks.systems import DISTILLED, name_of
from benchmarks.timing import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = {  # Okabe & Ito's, told apart by colour-blind readers
    "bundled": "#0072B2",
    "paper": "#009E73",
    "BLIP-base": "#D55E00",
    "GIT-base": "#CC79A7",
}
INK, FAINT = "#333333", "#999999"


def plot(comparison: Comparison) -> Figure:
    """The figure: a line a system, coloured by network, named at its right end."""
    from matplotlib.figure import Figure

    panels = 4 if comparison.qualities else 3
    widths = (2.2, 1.25, 1.25, 1.6)[:panels]
    figure = Figure(figsize=(3.2 * sum(widths), 6.2), layout="constrained")
    axes = figure.subplots(1, panels, width_ratios=widths)
    for one in axes[1:3]:
        one.sharey(axes[0])
    words = comparison.words
    alone = [t for t in comparison.timings if (t.setting.batch, t.setting.candidates) == (1, 1)]
    batched = [t for t in comparison.timings if t.setting.tokens == words and t.setting.candidates == 1]
    several = [t for t in comparison.timings if t.setting.tokens == words and t.setting.batch == 1]
    _panel(axes[0], alone, lambda t: t.setting.tokens)
    _panel(axes[1], _varied(batched), lambda t: t.setting.batch, log=True)
    _panel(axes[2], _varied(several), lambda t: t.setting.candidates, log=True)
    axes[0].set_ylabel("milliseconds per photo")
    axes[0].set_title("one photo, one caption", loc="left", fontsize=10)
    axes[1].set_title(f"batches, {words} tokens", loc="left", fontsize=10)
    axes[2].set_title(f"candidates, {words} tokens", loc="left", fontsize=10)
    axes[0].set_xlabel("tokens of the caption")
    axes[1].set_xlabel("photos at once")
    axes[2].set_xlabel("captions drawn per photo")
    if comparison.qualities:
        _quality(axes[3], comparison)
    machine = comparison.machine
    figure.suptitle(
        "Diffusion captioners and word-by-word captioners, side by side in one run",
        x=0.01,
        ha="left",
        fontsize=12,
        color=INK,
    )
    figure.supxlabel(
        f"Random weights at real size, 224 x 224, {machine['dtype']}, {machine['device']}"
        + (f" with {machine['threads']} threads" if machine["device"] == "CPU" else "")
        + f", median of {machine['rounds']} interleaved rounds (bars: least to greatest); torch "
        f"{machine['versions']['torch']}, transformers {machine['versions']['transformers']}. "
        "Dashed: with guidance; dotted: greedy; thick: what the statements compare.",
        x=0.01,
        ha="left",
        fontsize=8,
        color=FAINT,
    )
    return figure


def save_chart(comparison: Comparison, path: Path) -> None:
    """Write ``draw`` as a PNG."""
    plot(comparison).savefig(path, dpi=150)


def _varied(timings: Sequence[Timing]) -> list[Timing]:
    """Those of systems that were measured at more than one setting."""
    names = [t.system for t in timings]
    return [t for t in timings if names.count(t.system) > 1]


def _panel(axes: Axes, timings: Sequence[Timing], x: Callable[[Timing], int], *, log: bool = False) -> None:
    """Time against ``x``, both axes logarithmic where ``log``."""
    from matplotlib.ticker import NullFormatter

    ends = []
    for system in dict.fromkeys(t.system for t in timings):
        points = sorted((t for t in timings if t.system == system), key=x)
        colour, style, width = _look(system, points[0].family)
        medians = [t.seconds * 1e3 for t in points]
        axes.errorbar(
            [x(t) for t in points],
            medians,
            yerr=(
                [m - min(t.rounds) * 1e3 for m, t in zip(medians, points, strict=True)],
                [max(t.rounds) * 1e3 - m for m, t in zip(medians, points, strict=True)],
            ),
            color=colour,
            linestyle=style,
            linewidth=width,
            elinewidth=0.6,
            marker="o",
            markersize=width + 1.5,
            markeredgewidth=0,
        )
        ends.append((medians[-1], system, colour, width))
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)
    if log:
        axes.set_xscale("log")
    marks = sorted({x(t) for t in timings})
    axes.set_xticks(marks, [str(mark) for mark in marks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if marks:
        _name_ends(axes, ends, marks)


def _plain_numbers(axis: Axis) -> None:
    """1, 2 and 5 times powers of ten on a logarithmic axis, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str, float]], marks: Sequence[int]) -> None:
    """Names to the right of the lines, pushed apart where lines end close together."""
    import numpy as np

    ordered = sorted(ends)
    ideal = np.log([end[0] for end in ordered])
    bottom, top = np.log(axes.get_ylim())
    step = (top - bottom) * 0.031  # a line of text
    placed = ideal.copy()
    for _ in range(200):  # neighbours push each other away until all keep their distance
        gaps = np.diff(placed)
        short = np.clip(step - gaps, 0, None) / 2
        if not short.any():
            break
        placed[:-1] -= short
        placed[1:] += short
    for y, (value, system, colour, width) in zip(np.exp(placed), ordered, strict=True):
        axes.annotate(
            system,
            (marks[-1], value),
            (1.04, float(y)),
            textcoords=("axes fraction", "data"),
            color=colour,
            fontsize=8,
            fontweight="bold" if width > 2 else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )


def _look(system: str, family: str) -> tuple[str, Any, float]:
    """Colour, line style and width; the distilled way and beam search are drawn thick."""
    style: Any = (0, (4, 2)) if "guided" in system else (0, (1.5, 1.5)) if "greedy" in system else "-"
    thick = system == name_of(family, *DISTILLED) or system == "BLIP-base, beam 3"
    return COLOURS.get(family, INK), style, 2.4 if thick else 1.1


def _quality(axes: Axes, comparison: Comparison) -> None:
    """CIDEr-D of the evaluations against their time per photo."""
    for one in comparison.qualities:
        axes.errorbar(
            one.seconds * 1e3,
            one.cider,
            yerr=[[one.cider - one.low], [one.high - one.cider]],
            color=COLOURS["bundled"],
            marker="o",
            elinewidth=0.6,
        )
        axes.annotate(
            one.label.replace(", ", "\n"),
            (one.seconds * 1e3, one.cider),
            (5, 4),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.margins(x=0.2)
    _plain_numbers(axes.xaxis)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("milliseconds per photo, in its own run")
    axes.set_ylabel("CIDEr-D, with 95% interval")
    axes.set_title("quality, evaluated", loc="left", fontsize=10)
