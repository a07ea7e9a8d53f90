"""What runs of a study found, as JSON and as a Markdown table beside the paper's figures."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from clearcap.evaluation.scores import compare_scored, pooled_scores
from clearcap.evaluation.systems import System
from clearcap.studies.study import LOSSES, TIME, Study
from clearcap.studies.verdict import conclusion_of, decide, decide_by_time

SHOWN = ("BLEU-4", "CIDEr-D")


def assess(
    study: Study,
    about: Mapping[str, Any],
    systems: Mapping[str, Sequence[System]],
    losses: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, Any]:
    """Scores of every run with intervals over photos and spread over seeds, tests, verdicts and a conclusion.

    Args:
        study: the study.
        about: what it was run on.
        systems: captions of every run, one a seed.
        losses: of every run, one a seed; empty where nothing was trained.
    """
    scored = {name: [one.scored for one in some] for name, some in systems.items()}
    rows = []
    for run in study.runs:
        mine = scored[run.name]
        row: dict[str, Any] = {"name": run.name, "shown": run.shown, "x": run.x, "line": run.line}
        row |= {"paper": run.paper, "settings": run.settings, "calls": systems[run.name][0].calls}
        row["scores"] = {
            name: {"score": one.estimate, "interval": [one.low, one.high], **_spread(mine, name)}
            for name, one in pooled_scores(mine).items()
        }
        row["captions"] = {
            "distinct_share": statistics.fmean(one.diversity["distinct_share"] for one in mine),
            "words": statistics.fmean(one.diversity["length"]["mean"] for one in mine),
        }
        row["losses"] = [dict(one) for one in losses[run.name]]
        if run.name != study.against:
            tested = compare_scored(mine, scored[study.against])
            row["against"] = {name: one.to_json() for name, one in tested.items()}
        rows.append(row)
    claims = [decide(claim, study, scored, losses) for claim in study.claims if claim.metric != TIME]
    return {
        "study": {
            name: value for name, value in dataclasses.asdict(study).items() if name not in ("runs", "base")
        },
        "measured": dict(about),
        "runs": rows,
        "claims": claims,
        "conclusion": conclusion_of(study, claims, scale_of(study, about)),
    }


def scale_of(study: Study, about: Mapping[str, Any]) -> str:
    """What was measured, in words."""
    trained = " and ".join(about["trained_on"])
    text = f"{about['photos']:,} photos of {about['corpus']} {about['split']} with {len(study.seeds)} seeds"
    text += f" after training on {trained} ({about['training']})" if trained else ""
    return text + (" (a trial of the machinery: its figures mean nothing)" if about["tiny"] else "")


def times_of(study: Study, systems: Mapping[str, Sequence[System]]) -> dict[str, Any]:
    """Milliseconds of every run and what claims about them come to; never the same twice, so apart."""
    ms = {name: [one.ms for one in some] for name, some in systems.items()}
    return {
        "ms_per_photo": ms,
        "encode_ms_per_photo": {name: [one.encode_ms for one in some] for name, some in systems.items()},
        "claims": [decide_by_time(claim, ms) for claim in study.claims if claim.metric == TIME],
    }


def table_of(study: Study, results: Mapping[str, Any]) -> str:
    """The page of a study: question, table beside the paper's figures, verdicts, conclusion; Markdown."""
    rows = results["runs"]
    scores = rows[0]["scores"]
    metrics = [name for name in SHOWN if name in scores]
    metrics += [name for name in scores if name not in SHOWN and _wanted(name, study)]
    known = [name for name in (*metrics, *LOSSES) if any(name in row["paper"] for row in rows)]
    trained = any(row["losses"] for row in rows)
    heads = ["run", *(f"paper's {name}" for name in known)]
    heads += [part for name in metrics for part in (name, "seeds")]
    heads += [f"{study.decides} less that of {study.against}", "p", "words", "distinct", "calls"]
    heads += list(LOSSES) if trained else []
    lines = [f"## {study.name}", "", study.asks, ""]
    lines += [f"{study.paper}; {scale_of(study, results['measured'])}. {study.differs}".rstrip(), ""]
    lines += [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [row["shown"] or row["name"], *(_number(row["paper"].get(name)) for name in known)]
        for name in metrics:
            one = row["scores"][name]
            cells += [f"{one['score']:.3f} ({one['interval'][0]:.3f} to {one['interval'][1]:.3f})"]
            cells += [" ".join(f"{value:.3f}" for value in one["seeds"])]
        cells += _tested(row.get("against", {}).get(study.decides))
        said = row["captions"]
        cells += [f"{said['words']:.1f}", f"{said['distinct_share']:.0%}", str(row["calls"])]
        if trained:
            cells += [_number(statistics.fmean(one[name] for one in row["losses"])) for name in LOSSES]
        lines.append(_line(cells))
    lines += ["", "| claim | verdict | by |", "|---|---|---|"]
    for one in results["claims"]:
        interval = one["interval"]
        by = f"{one['metric']} of {one['of']} less that of {one['than']}: {one['difference']:+.4f}"
        by += f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ", all seeds"
        lines.append(_line([one["says"], one["verdict"], by]))
    timed = [claim.says for claim in study.claims if claim.metric == TIME]
    lines += [_line([says, "in times.json", "milliseconds a photo"]) for says in timed]
    return "\n".join([*lines, "", results["conclusion"], ""])


def _spread(runs: Sequence[Any], name: str) -> dict[str, Any]:
    values = [one.scores.corpus[name] for one in runs]
    return {"seeds": values, "deviation": statistics.stdev(values)}


def _wanted(name: str, study: Study) -> bool:
    """Whether a score is one of the study's own."""
    return name in study.metrics or name == study.decides


def _tested(one: Mapping[str, Any] | None) -> list[str]:
    if one is None:
        return ["", ""]
    low, high = one["interval"]
    return [f"{one['difference']:+.3f} ({low:+.3f} to {high:+.3f})", f"{one['p_permutation']:.3f}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
