"""``clearcap study``: the papers' tables and figures as runs, with verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options


def study(
    name: Annotated[str, typer.Argument(help="a study by name or TOML file; 'list' shows those that ship")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings of all runs: text.source=... train.steps=300 ...")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="corpus as NAME:ROOT:SPLIT; the last is captioned and scored, those before it are trained on"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for results.json, table.md and picture.png; a killed study goes on there"),
    ] = None,
    model: options.Model = "default",
    limit: Annotated[
        int | None, typer.Option(help="only the first photos of the split; default is the study's own number")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="folder of encoded photos and trained models, which studies may share; default is --out"
        ),
    ] = None,
    subset: options.Subset = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="a trial: a few training steps, twelve photos")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    as_json: options.AsJson = False,
) -> None:
    """Run a study of a paper's claims: a table beside the paper's figures, tests, a picture and a conclusion."""
    from clearcap.config import require
    from clearcap.studies.study import load_study, studies

    if name == "list":
        _list([load_study(one).about() for one in studies()], as_json)
        return
    asked = load_study(name)
    from clearcap.studies.results import table_of
    from clearcap.studies.run import Scale, run_study

    require(limit is None or limit > 1, f"limit={limit} leaves too few photos to compare; pass at least 2")
    scale = Scale(tuple(data or ()), model, tuple(overrides or ()), limit, tiny, subset, batch_size)
    home = out or Path("runs") / "studies" / asked.name
    found = run_study(
        asked, scale, home, lambda what: print(f"{asked.name}: {what}", file=sys.stderr), cache=cache
    )
    print(json.dumps(found, ensure_ascii=False) if as_json else table_of(asked, found))


def _list(found: list[dict], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    options.show_table(
        ("study", "asks", "paper", "runs", "hours"),
        [
            [one["name"], one["asks"], one["paper"], str(one["runs"]), f"{one['minutes'] / 60:.1f}"]
            for one in found
        ],
        title="Studies",
        caption="hours are estimates for one core",
        words=("study", "asks", "paper"),
        width=150,
    )
