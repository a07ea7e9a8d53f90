"""``clearcap evaluate-fill``: how often hidden words of the references are guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clearcap.evaluation.filling import FillEvaluation


def evaluate_fill(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="sampling settings to change: steps=5 guidance=1 ...", show_default=False),
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
    hidden: Annotated[str, typer.Option(help="numbers of words to hide in each reference")] = "1,2,4",
    masked_lm: Annotated[
        str | None,
        typer.Option(help="masked language model to compare with; default the captioner's own text space"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the hidden places and of the draws")] = 0,
    batch_size: Annotated[int, typer.Option(help="photos at once, with all their references")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="folder for answers and fill.json; a killed run resumes")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Hide words of every reference and have them guessed with the photo, without it, and by a masked LM."""
    from clearcap.cli.evaluate import open_split
    from clearcap.cli.table import numbers
    from clearcap.config import SamplingConfig, changes
    from clearcap.evaluation.filling import evaluate_fill as run

    how = changes(SamplingConfig, overrides or [])
    counts = numbers(hidden, int, "--hidden")
    corpus = open_split(data, root, split, option, subset)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("starting", total=None)

    def advance(done: int, total: int, what: str) -> None:
        bar.start()  # no sooner, so that an error before the first photo is the only line
        bar.update(task, completed=done, total=total, description=what)

    try:
        found = run(
            model,
            corpus,
            hidden=counts,
            masked_lm=masked_lm,
            out=out,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            progress=advance,
            **how,
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)


def _print(found: FillEvaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    from clearcap.evaluation.filling import SYSTEMS

    manifest, figures = found.manifest, found.to_json()["hidden"]
    table = Table(
        title=f"{manifest['model']} on {manifest['corpus']} {manifest['split']}, {manifest['photos']:,} photos",
        caption=f"share of hidden words guessed exactly, 95% over photos; seed {manifest['seed']}; "
        f"masked LM: {manifest['masked_lm']}",
    )
    table.add_column("hidden", justify="right")
    table.add_column("words")
    for heading in (*SYSTEMS, "photo / no photo", "photo - masked LM"):
        table.add_column(heading, justify="right")
    for count, one in figures.items():
        for name, label in (("words", "all"), ("content_words", "content")):
            row = one[name]
            if not row["hidden"]:
                continue
            ratio, lead = row["photo_to_no_photo"], row["photo_minus_masked_lm"]
            table.add_row(
                count if label == "all" else "",
                f"{label} ({row['hidden']:,})",
                *(f"{row[s]['accuracy']:.3f} ({_span(row[s]['interval'])})" for s in SYSTEMS),
                f"{ratio['ratio']:.2f} ({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f})",
                f"{lead['difference']:+.3f} ({_span(lead['interval'], '+.3f')})",
            )
    console = Console(width=None if Console().is_terminal else 170)
    console.print(table)
    for count, one in figures.items():
        speed = ", ".join(f"{name} {ms:.1f}" for name, ms in one["ms_per_reference"].items())
        console.print(
            f"{count} hidden: {one['references']:,} references ({one['cut']:,} cut, {one['left_out']:,} left out), "
            f"fixed words unchanged in {one['fixed_words_unchanged']:.2%}; ms a reference: {speed}",
            highlight=False,
        )


def _span(interval: list[float], form: str = ".3f") -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}"
