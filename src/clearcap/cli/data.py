"""``clearcap data``: what is wrong with a corpus, and what it is like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check and describe captioning corpora.", no_args_is_help=True, add_completion=False)


@app.command("check")
def check(
    data: Annotated[
        str, typer.Argument(help="corpus: flickr8k, coco-karpathy, coco, folder ...", show_default=False)
    ],
    root: Annotated[str, typer.Argument(help="its folder", show_default=False)],
    split: Annotated[
        list[str] | None, typer.Option(help="only these splits (default: all it is published with)")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="the splits need not have their published sizes")
    ] = False,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE the corpus's reader knows")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Open every photo and read every list of a corpus; exit status 1 if anything is wrong."""
    from rich.console import Console
    from rich.progress import Progress

    from clearcap.cli.options import key_values
    from clearcap.data.check import check as check_corpus

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("opening photos", total=None)
        found = check_corpus(
            data,
            root,
            split or None,
            expected=None if subset else "official",
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            **key_values(option),
        )
    if as_json:
        print(json.dumps({"ok": found.ok, **dataclasses.asdict(found)}, ensure_ascii=False))
    else:
        print(
            "\n".join(
                [*found.lines(), "nothing is wrong" if found.ok else "not fit to be trained or scored on"]
            )
        )
    if not found.ok:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    data: Annotated[
        str, typer.Argument(help="corpus: flickr8k, coco-karpathy, coco, folder ...", show_default=False)
    ],
    root: Annotated[str, typer.Argument(help="its folder", show_default=False)],
    split: Annotated[str, typer.Option(help="split of the corpus")] = "all",
    picture: Annotated[
        Path | None, typer.Option(help="draw the figures into this .png, .svg or .pdf")
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="the split need not have its published size")
    ] = False,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE the corpus's reader knows")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Lengths, vocabulary and photo sizes of a split."""
    from rich.console import Console
    from rich.progress import Progress

    from clearcap.cli.options import key_values
    from clearcap.data.corpus import open_corpus
    from clearcap.data.stats import draw, statistics

    corpus = open_corpus(data, root, split, expected=None if subset else "official", **key_values(option))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=len(corpus))
        found = statistics(corpus, progress=lambda done, total: progress.update(task, completed=done))
    figures = {
        "photos": found.photos,
        "captions": found.captions,
        "words": found.words,
        "mean_length": found.mean_length,
        "median_length": found.length_at(0.5),
        "length_95": found.length_at(0.95),
        "vocabulary": found.vocabulary,
        "words_once": found.once,
        "photo_sizes": len(found.sizes),
        "unreadable": len(found.unreadable),
    }
    if picture is not None:
        draw(found, picture)
    if as_json:
        lengths = {str(length): count for length, count in found.lengths.items()}
        print(json.dumps({**figures, "lengths": lengths, "common": found.common}, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(title=f"{found.name} {found.split}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
    table.add_row("common words", " ".join(word for word, _ in found.common[:10]))
    Console().print(table)
