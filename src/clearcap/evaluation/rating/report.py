"""What raters said: mean opinion scores with intervals, how far raters agree, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clearcap.data.writing import whole_file, write_json, write_text
from clearcap.errors import InputError
from clearcap.evaluation.rating.answers import Answers
from clearcap.evaluation.rating.plan import SCALES, Plan, open_plan
from clearcap.metrics.agreement import LEVELS, correlations, krippendorff_alpha

SAMPLES = 1000
COLOURS = ("#2a78d6", "#d1650a", "#3d8f5f", "#8a5cc2", "#a8323e", "#6b6b6b")


def write_report(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Report on the answers in a folder as ``report.json``, ``report.md`` and ``report.png``, all beside them.

    Args:
        out: folder of a rating.
        seed: of the bootstrap.

    Returns:
        What ``report.json`` holds.

    Raises:
        InputError: no rating there, or nobody has answered yet.
    """
    plan = open_plan(out)
    found = report_of(plan, Answers(out, len(plan.items)).held, seed=seed)
    write_json(out / "report.json", found)
    write_text(out / "report.md", table_of(found))
    draw(found, out / "report.png")
    return found


def report_of(plan: Plan, answers: Mapping[tuple[str, int, str], int], *, seed: int = 0) -> dict[str, Any]:
    """Figures of answers.

    A mean opinion score is the mean over photos of the mean over those raters who answered; its interval is of
    1,000 bootstrap samples of photos, raters staying as they are, and differences to the first system are paired by
    photo. What other raters would say, the raters' own means tell better than an interval.

    Args:
        plan: what was rated.
        answers: (rater, item, scale) -> value.
        seed: of the bootstrap.

    Raises:
        InputError: there are none.
    """
    raters = sorted({rater for rater, _, _ in answers})
    if not raters:
        raise InputError("nobody has answered yet; open the page that clearcap rate serves, and rate")
    rng = np.random.default_rng(seed)
    resamples = rng.integers(0, len(plan.photos), (SAMPLES, len(plan.photos)))
    scales: dict[str, Any] = {}
    for scale in SCALES:
        values = np.full((len(raters), len(plan.items)), np.nan)
        for (rater, item, asked), value in answers.items():
            if asked == scale:
                values[raters.index(rater), item] = value
        scales[scale] = _scale(plan, raters, values, resamples)
    given = {rater: sum(who == rater for who, _, _ in answers) for rater in raters}
    return {
        "photos": len(plan.photos),
        "captions": len(plan.items),
        "answers_asked": len(plan.items) * len(SCALES),
        "raters": given,
        "scales": scales,
    }


def _scale(
    plan: Plan,
    raters: Sequence[str],
    values: Float[np.ndarray, "raters items"],
    resamples: Int[np.ndarray, "samples photos"],
) -> dict[str, Any]:
    """One scale: scores of systems, and agreement over captions."""
    systems: dict[str, Any] = {}
    means: dict[str, Float[np.ndarray, " photos"]] = {}
    for name in plan.systems:
        mine = [n for n, item in enumerate(plan.items) if name in item.systems]
        by_photo = np.full((len(raters), len(plan.photos)), np.nan)
        by_photo[:, [plan.items[n].photo for n in mine]] = values[:, mine]
        means[name] = _mean(by_photo, 0)
        rated = ~np.isnan(means[name])
        systems[name] = {
            "photos": int(rated.sum()),
            "mean": _number(_mean(means[name])),
            "interval": _interval(means[name][resamples]),
            "raters": {rater: _number(_mean(row)) for rater, row in zip(raters, by_photo, strict=True)},
        }
        first = means[plan.systems[0]]
        if name != plan.systems[0]:
            difference = means[name] - first
            systems[name][f"minus {plan.systems[0]}"] = {
                "difference": _number(_mean(difference)),
                "interval": _interval(difference[resamples]),
            }
    pairs = []
    for (i, a), (j, b) in combinations(enumerate(raters), 2):
        pearson, spearman, captions = correlations(values[i], values[j])
        pairs.append({"raters": [a, b], "captions": captions, "pearson": pearson, "spearman": spearman})
    alpha = {level: krippendorff_alpha(values, level) for level in LEVELS}
    return {"systems": systems, "alpha": alpha, "pairs": pairs}


def table_of(found: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    names = list(next(iter(found["scales"].values()))["systems"])
    given = ", ".join(f"{name} {count}" for name, count in found["raters"].items())
    lines = [
        f"{found['captions']} captions of {found['photos']} photos, {found['answers_asked']} answers asked of each "
        f"rater; given: {given}.",
        "",
        f"| system | {' | '.join(found['scales'])} |",
        "|---|" + "---|" * len(found["scales"]),
    ]
    for name in names:
        cells = [_cell(one["systems"][name]) for one in found["scales"].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in names[1:]:
        key = f"minus {names[0]}"
        cells = [_cell(one["systems"][name][key], "difference", "+") for one in found["scales"].values()]
        lines.append(f"| {name} {key} | {' | '.join(cells)} |")
    for level in LEVELS:
        cells = [_shown(one["alpha"][level]) for one in found["scales"].values()]
        lines.append(f"| Krippendorff's alpha, {level} | {' | '.join(cells)} |")
    for place, pair in enumerate(next(iter(found["scales"].values()))["pairs"]):
        pairs = [one["pairs"][place] for one in found["scales"].values()]
        cells = [f"{_shown(one['pearson'])}, {_shown(one['spearman'])}" for one in pairs]
        lines.append(f"| {' and '.join(pair['raters'])}: Pearson, Spearman | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw scores with intervals and each rater's own mean, and the agreement of pairs of raters."""
    from matplotlib.figure import Figure

    scales = found["scales"]
    names = list(next(iter(scales.values()))["systems"])
    figure = Figure(figsize=(9.5, 2.2 + 0.3 * len(names)), layout="constrained", facecolor="white")
    scores, agreement = figure.subplots(1, 2, width_ratios=(2, 1))
    for place, name in enumerate(names):
        shift = (place - (len(names) - 1) / 2) * 0.8 / len(names)
        for row, one in enumerate(scales.values()):
            mine = one["systems"][name]
            if mine["mean"] is None:
                continue
            colour, label = COLOURS[place % len(COLOURS)], name if row == 0 else None
            scores.plot(mine["interval"], [row + shift] * 2, color=colour, lw=2)
            scores.plot(mine["mean"], row + shift, "s", color=colour, ms=6, label=label)
            dots = [value for value in mine["raters"].values() if value is not None]
            scores.plot(dots, [row + shift] * len(dots), ".", color="#1a1a19", ms=4)
    scores.set(xlim=(1, 5), xlabel="mean opinion score, 95% over photos; dots are raters")
    for row, one in enumerate(scales.values()):
        known = [pair["spearman"] for pair in one["pairs"] if pair["spearman"] is not None]
        agreement.plot(known, [row] * len(known), "o", color="#8d8d8a", ms=5, label=None if row else "pairs")
        if one["alpha"]["ordinal"] is not None:
            agreement.plot(
                one["alpha"]["ordinal"], row, "D", color="#1a1a19", ms=6, label=None if row else "alpha"
            )
    agreement.set(xlim=(-1, 1), xlabel="alpha (ordinal), Spearman's correlation of pairs")
    for axes in (scores, agreement):
        axes.set_yticks(range(len(scales)), list(scales))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, loc="lower left")
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=110, metadata={"Software": None})


def _mean(values: Float[np.ndarray, "..."], axis: int | None = None) -> Any:
    """The mean of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.where(count, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def _interval(values: Float[np.ndarray, "samples photos"]) -> list[float] | None:
    means = _mean(values, 1)
    means = means[~np.isnan(means)]
    return [float(end) for end in np.quantile(means, [0.025, 0.975])] if len(means) else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _cell(one: Mapping[str, Any], key: str = "mean", sign: str = "") -> str:
    if one[key] is None:
        return "not rated"
    low, high = one["interval"]
    return f"{one[key]:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
