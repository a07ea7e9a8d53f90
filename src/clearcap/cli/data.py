"""``clearcap data``: what is wrong with a corpus, and what it is like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options

app = typer.Typer(help="Check and describe captioning corpora.", no_args_is_help=True, add_completion=False)


Spec = Annotated[
    str,
    typer.Argument(help="corpus as NAME:ROOT or NAME:ROOT:SPLIT, such as flickr8k:DIR", show_default=False),
]
OldRoot = Annotated[str, typer.Argument(help="deprecated: pass NAME:ROOT:SPLIT", hidden=True)]


@app.command("check")
def check(
    data: Spec,
    root: OldRoot = "",
    split: Annotated[
        list[str] | None, typer.Option(help="only these splits (default: all it is published with)")
    ] = None,
    subset: options.Subset = False,
    option: options.ReaderOption = None,
    as_json: options.AsJson = False,
) -> None:
    """Open every photo and read every list of a corpus; exit status 1 if anything is wrong."""
    from clearcap.data.check import check as check_corpus
    from clearcap.data.corpus import split_spec

    name, folder, named = split_spec(options.spelt(data, root, ""))
    with options.shown_progress("opening photos") as advance:
        found = check_corpus(
            name,
            folder,
            split or ([named] if named else None),
            expected=None if subset else "official",
            progress=advance,
            **options.key_values(option),
        )
    if as_json:
        print(json.dumps({"ok": found.ok, **dataclasses.asdict(found)}, ensure_ascii=False))
    else:
        print(
            *found.lines(), "nothing is wrong" if found.ok else "not fit to be trained or scored on", sep="\n"
        )
    if not found.ok:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    data: Spec,
    root: OldRoot = "",
    split: options.Split = "",
    picture: Annotated[
        Path | None, typer.Option(help="plot the figures into this .png, .svg or .pdf")
    ] = None,
    subset: options.Subset = False,
    option: options.ReaderOption = None,
    as_json: options.AsJson = False,
) -> None:
    """Lengths, vocabulary and photo sizes of a split."""
    from clearcap.data.stats import plot, statistics

    corpus = options.open_split(data, root, split or ("all" if root else ""), option, subset)
    with options.shown_progress("reading") as advance:
        found = statistics(corpus, progress=advance)
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
        plot(found, picture)
    if as_json:
        lengths = {str(length): count for length, count in found.lengths.items()}
        print(json.dumps({**figures, "lengths": lengths, "common": found.common}, ensure_ascii=False))
        return
    shown = {
        name: f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for name, value in figures.items()
    }
    shown["common words"] = " ".join(word for word, _ in found.common[:10])
    rows = [(name.replace("_", " "), text) for name, text in shown.items()]
    options.show_table(("figure", "value"), rows, title=f"{found.name} {found.split}", words=("figure",))
