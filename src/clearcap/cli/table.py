"""``clearcap table``: sampling settings side by side on one split, with paired tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearcap.cli import options

if TYPE_CHECKING:
    from clearcap.evaluation.table import MethodTable


def table(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="sampling settings to change: guidance=2 utility=cider refine_time=0.8 ..."),
    ] = None,
    model: options.Model = "default",
    data: options.Data = "",
    root: options.Root = "",
    split: options.Split = "",
    option: options.ReaderOption = None,
    subset: options.Subset = False,
    limit: options.Limit = None,
    steps: Annotated[
        str, typer.Option(help="numbers of steps; default 1,2,5,10,30, or the model's own in a sweep")
    ] = "",
    candidates: Annotated[
        int, typer.Option(help="captions that minimum Bayes risk chooses among; 1 leaves it out")
    ] = 10,
    refine_sweep: Annotated[
        bool, typer.Option("--refine-sweep", help="Back&Refine on a grid of its parameters instead")
    ] = False,
    times: Annotated[str, typer.Option(help="sweep: levels it goes back at, shares of T")] = "0.2,0.5,0.8",
    shares: Annotated[str, typer.Option(help="sweep: shares of the positions it keeps")] = "0.2,0.5,0.8",
    thresholds: Annotated[str, typer.Option(help="sweep: probabilities to keep by instead")] = "0.5,0.9",
    levels: Annotated[str, typer.Option(help="sweep: levels that kept words restart from")] = "0",
    seed: options.Seed = 0,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="folder for samples, table.json and table.png; a killed run resumes")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Steps x {plain, Back&Refine, minimum Bayes risk, both}: scores, time, and tests against plain."""
    from clearcap.evaluation.table import refine_sweep as sweep
    from clearcap.evaluation.table import steps_table

    how = options.sampling_settings(overrides)
    counts = options.number_list(steps, int, "--steps")
    texts = {"times": times, "shares": shares, "thresholds": thresholds, "levels": levels}
    grid = {name: options.number_list(text, float, f"--{name}") for name, text in texts.items()}
    corpus = options.open_split(data, root, split, option, subset)
    if refine_sweep:
        run: Callable[..., MethodTable] = partial(sweep, steps=counts, **grid)  # type: ignore[arg-type]
    else:
        run = partial(steps_table, steps=counts or [1, 2, 5, 10, 30], candidates=candidates)
    with options.shown_progress("starting") as advance:
        found = run(
            model, corpus, out=out, limit=limit, batch_size=batch_size, seed=seed, progress=advance, **how
        )
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)


def _print(found: MethodTable) -> None:
    manifest = found.manifest
    rows: list[list[str] | None] = []
    for steps, alike in groupby(found.rows, lambda row: row.method.sampling.steps):
        rows.append(None)
        for number, row in enumerate(alike):
            scores, said = row.scored.scores.corpus, row.scored.diversity
            cells = ["" if number else str(steps), row.method.name]
            cells += [f"{scores['BLEU-4']:.4f}", f"{scores['CIDEr-D']:.4f}", f"{said['distinct']:,}"]
            cells += [f"{said['length']['mean']:.1f}", f"{row.ms:.1f}"]
            cider, bleu = (_tested(row.against_plain, name) for name in ("CIDEr-D", "BLEU-4"))
            rows.append([*cells, *cider, *bleu])
    tests = ("CIDEr-D - plain", "p", "BLEU-4 - plain", "p")
    console = options.show_table(
        ("steps", "method", "BLEU-4", "CIDEr-D", "distinct", "words", "ms a photo", *tests),
        rows,
        title=f"{manifest['model']} on {manifest['corpus']} {manifest['split']}, {manifest['photos']:,} photos",
        caption=f"seed {manifest['seed']}; differences are paired, with 95% bootstrap intervals; "
        "p of approximate randomisation",
        words=("method",),
        width=170,
    )
    if found.compared:
        console.print(
            f"{found.compared - found.differing:,} of {found.compared:,} captions sampled alone are the first of "
            "the candidates.",
            highlight=False,
        )


def _tested(against: dict | None, name: str) -> tuple[str, str]:
    """Difference and p; bold where the test is passed at 95%."""
    if against is None:
        return "", ""
    one = against[name]
    difference = one.difference
    text = f"{difference.estimate:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    sure = one.p_permutation < 0.05 and (difference.low > 0 or difference.high < 0)
    return (f"[bold]{text}[/bold]" if sure else text), f"{one.p_permutation:.3f}"
