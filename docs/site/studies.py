"""The papers' tables, from the files of the studies, and our figures where results lie in ``docs/studies``."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "src" / "clearcap" / "studies"
RESULTS = ROOT / "docs" / "studies"


def tables() -> str:
    """Every study: what it asks, the paper's figures beside ours, its claims."""
    return "\n".join(_one(path) for path in sorted(STUDIES.glob("*.toml"), key=_order))


def _order(path: Path) -> tuple[bool, str, str]:
    paper = tomllib.loads(path.read_text())["paper"]
    return not paper.startswith("LaDiC"), paper, path.stem


def _one(path: Path) -> str:
    study = tomllib.loads(path.read_text())
    ours = results(path.stem)
    lines = [f"## {study['paper']}: {path.stem}", "", study["asks"], ""]
    if "differs" in study:
        lines += [f"*What differs here:* {study['differs']}", ""]
    runs = study["runs"]
    names = sorted({name for run in runs for name in run.get("paper", {})})
    if names:
        head = ["run", *(f"paper, {name}" for name in names), *(f"ours, {name}" for name in names if ours)]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for run in runs:
            mine = ours.get(run["name"], {})
            cells = [
                run.get("shown", run["name"]),
                *(_shown(run.get("paper", {}).get(name)) for name in names),
            ]
            cells += [_shown(mine.get(name)) for name in names if ours]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if study.get("claims"):
        lines += ["Claims that the study decides:", ""]
        lines += [f"- {claim['says']}" for claim in study["claims"]]
        lines.append("")
    lines += ["<!-- not run: it trains or captions for minutes to hours -->", "```sh"]
    lines += [f"clearcap study {path.stem} --data NAME:ROOT:SPLIT --out studies/{path.stem}", "```", ""]
    return "\n".join(lines)


def results(name: str) -> dict[str, dict[str, Any]]:
    """Our scores of a study by run and metric; none where its ``results.json`` is not in ``docs/studies/NAME``."""
    file = RESULTS / name / "results.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text())["runs"]
    rows = found.items() if isinstance(found, dict) else ((run["name"], run) for run in found)
    return {key: run.get("scores", run) for key, run in rows}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("score", value.get("value"))
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
