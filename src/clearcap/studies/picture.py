"""The picture of a study, in the manner of the paper's: bars of a table, lines of a figure, curves of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clearcap.data.writing import whole_file
from clearcap.studies.study import LOSSES, Study

INK, OURS, PAPERS = "#1a1a19", "#2a78d6", "#d1650a"


def draw(
    study: Study,
    results: Mapping[str, Any],
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    path: Path,
) -> None:
    """Draw a study's results.

    Args:
        study: whose ``figure`` says how.
        results: what ``assess`` gave.
        curves: losses of every run, seed by seed, step by step.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    rows = results["runs"]
    sides = ("ours", "paper") if any(row["paper"] for row in rows) else ("ours",)
    if study.figure == "losses":
        sides = LOSSES
    height = 2.4 + 0.34 * len(study.runs)
    width = 10.5 if len(sides) > 1 else 8.0
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(f"{study.name}: {study.paper}", x=0.01, ha="left", fontsize=12, color=INK)
    for axes, side in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        if study.figure == "losses":
            _losses(axes, study, curves, side)
        else:
            (_bars if study.figure == "bars" else _lines)(axes, study, rows, side)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=130, metadata={"Software": None})  # the same bytes with every matplotlib


def _metric(study: Study, rows: Sequence[Mapping[str, Any]], whose: str) -> str:
    """What a side shows: the deciding score, or, where the paper has none of it, the first that it has."""
    if whose == "ours" or any(study.decides in row["paper"] for row in rows):
        return study.decides
    return next((name for row in rows for name in row["paper"]), study.decides)


def _bars(axes: Any, study: Study, rows: Sequence[Mapping[str, Any]], whose: str) -> None:
    metric = _metric(study, rows, whose)
    names = [row["shown"] or row["name"] for row in rows]
    if whose == "paper":
        axes.barh(names, [row["paper"].get(metric, 0.0) for row in rows], color=PAPERS, height=0.6)
    else:
        scores = [row["scores"][metric] for row in rows]
        values = [one["score"] for one in scores]
        axes.barh(names, values, xerr=_reach(scores), color=OURS, height=0.6, error_kw={"elinewidth": 1})
        for name, one in zip(names, scores, strict=True):
            axes.plot(one["seeds"], [name] * len(one["seeds"]), "o", color=INK, markersize=3)
    axes.invert_yaxis()
    axes.set_xlabel(_label(study, metric, whose), fontsize=9)


def _reach(scores: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their scores; one of equal values may end just beside them."""
    ends = [(one["score"] - one["interval"][0], one["interval"][1] - one["score"]) for one in scores]
    return [max(0.0, low) for low, _ in ends], [max(0.0, high) for _, high in ends]


def _lines(axes: Any, study: Study, rows: Sequence[Mapping[str, Any]], whose: str) -> None:
    metric = _metric(study, rows, whose)
    for line in dict.fromkeys(row["line"] for row in rows):
        some = [row for row in rows if row["line"] == line]
        if whose == "paper":
            held = [(row["x"], row["paper"][metric]) for row in some if metric in row["paper"]]
            axes.plot(*zip(*held, strict=True), "D--", label=line, markersize=4) if held else None
            continue
        scores = [row["scores"][metric] for row in some]
        values = [one["score"] for one in scores]
        x = [row["x"] for row in some]
        axes.errorbar(x, values, yerr=_reach(scores), marker="o", markersize=4, label=line)
    axes.set_xlabel(study.axis, fontsize=9)
    axes.set_ylabel(_label(study, metric, whose), fontsize=9)
    if any(row["line"] for row in rows) and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _losses(
    axes: Any, study: Study, curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], loss: str
) -> None:
    for run in study.runs:
        for number, curve in enumerate(curves[run.name]):
            label = (run.shown or run.name) if not number else None
            colour = f"C{study.runs.index(run)}"
            axes.plot(
                [one["step"] for one in curve], [one[loss] for one in curve], color=colour, lw=1, label=label
            )
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(loss, fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _label(study: Study, metric: str, whose: str) -> str:
    return f"{metric}, ours, 95% over photos" if whose == "ours" else f"{metric}, the paper's own figures"
