"""``clearcap table``: sampling settings side by side on one split, with paired tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from clearcap.evaluation.table import MethodTable

Number = TypeVar("Number", int, float)


def table(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="sampling settings to change: guidance=2 utility=cider refine_time=0.8 ..."),
    ] = None,
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    data: Annotated[str, typer.Option(help="corpus: flickr8k, coco-karpathy, coco, folder ...")] = "flickr8k",
    root: Annotated[str, typer.Option(help="its folder (file, or data set name)")] = "",
    split: Annotated[str, typer.Option(help="split of the corpus; default dev, or all of a folder")] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE the corpus's reader knows, such as photos=DIR")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="the split need not have its published size")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="only the first photos of the split")] = None,
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
    seed: Annotated[int, typer.Option(help="same seed, same captions")] = 0,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="folder for draws, table.json and table.png; a killed run resumes")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Steps x {plain, Back&Refine, minimum Bayes risk, both}: scores, time, and tests against plain."""
    from clearcap.cli.evaluate import open_split
    from clearcap.config import SamplingConfig, changes
    from clearcap.evaluation.table import refine_sweep as sweep
    from clearcap.evaluation.table import steps_table

    how = changes(SamplingConfig, overrides or [])
    counts = numbers(steps, int, "--steps")
    grid = {
        name: numbers(text, float, f"--{name}")
        for name, text in (
            ("times", times),
            ("shares", shares),
            ("thresholds", thresholds),
            ("levels", levels),
        )
    }
    corpus = open_split(data, root, split, option, subset)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("starting", total=None)

    def advance(done: int, total: int, what: str) -> None:
        bar.start()  # no sooner, so that an error before the first photo is the only line
        bar.update(task, completed=done, total=total, description=what)

    common = {"out": out, "limit": limit, "batch_size": batch_size, "seed": seed, "progress": advance, **how}
    try:
        if refine_sweep:
            found = sweep(model, corpus, steps=counts, **grid, **common)  # type: ignore[arg-type]
        else:
            found = steps_table(
                model, corpus, steps=counts or (1, 2, 5, 10, 30), candidates=candidates, **common
            )
    finally:
        if bar.live.is_started:
            bar.stop()
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)


def numbers(text: str, kind: type[Number], name: str) -> list[Number]:
    """``1,2,5`` as a list; empty text is none. Raises InputError."""
    from clearcap.errors import InputError

    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError as fault:
        raise InputError(f"{name} {text!r} is not a list of numbers such as 1,2,5") from fault


def _print(found: MethodTable) -> None:
    from rich.console import Console
    from rich.table import Table

    manifest = found.manifest
    shown = Table(
        title=f"{manifest['model']} on {manifest['corpus']} {manifest['split']}, {manifest['photos']:,} photos",
        caption=f"seed {manifest['seed']}; differences are paired, with 95% bootstrap intervals; "
        "p of approximate randomisation",
    )
    shown.add_column("steps", justify="right")
    shown.add_column("method")
    headings = (
        "BLEU-4",
        "CIDEr-D",
        "distinct",
        "words",
        "ms a photo",
        "CIDEr-D - plain",
        "p",
        "BLEU-4 - plain",
        "p",
    )
    for heading in headings:
        shown.add_column(heading, justify="right")
    earlier = None
    for row in found.rows:
        steps = row.method.sampling.steps
        if earlier is not None and steps != earlier:
            shown.add_section()
        scores, said = row.scored.scores.corpus, row.scored.diversity
        shown.add_row(
            "" if steps == earlier else str(steps),
            row.method.name,
            f"{scores['BLEU-4']:.4f}",
            f"{scores['CIDEr-D']:.4f}",
            f"{said['distinct']:,}",
            f"{said['length']['mean']:.1f}",
            f"{row.ms:.1f}",
            *_tested(row.against_plain, "CIDEr-D"),
            *_tested(row.against_plain, "BLEU-4"),
        )
        earlier = steps
    console = Console(width=None if Console().is_terminal else 170)
    console.print(shown)
    if found.compared:
        console.print(
            f"{found.compared - found.differing:,} of {found.compared:,} captions drawn alone are the first of "
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
