"""What commands over a whole split have in common: their options, the split they ask for, the bar they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from clearcap.data.records import Corpus, Expected

Number = TypeVar("Number", int, float)

Model = Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")]
Data = Annotated[str, typer.Option(help="corpus: flickr8k, coco-karpathy, coco, folder ...")]
Root = Annotated[str, typer.Option(help="its folder (file, or data set name)")]
Split = Annotated[str, typer.Option(help="split of the corpus; default dev, or all of a folder")]
ReaderOption = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE the corpus's reader knows, such as photos=DIR")
]
Subset = Annotated[bool, typer.Option("--subset", help="the split need not have its published size")]
Limit = Annotated[int | None, typer.Option(help="only the first photos of the split")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of any sampling setting, such as refine_time=0.7; may be repeated"),
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def sampling_settings(setting: list[str] | None, **flags: Any) -> dict[str, Any]:
    """Sampling settings of ``--set`` and of options of their own, which win where they are given. Raises InputError."""
    from clearcap.config import SamplingConfig, changes

    return changes(SamplingConfig, setting or []) | {k: v for k, v in flags.items() if v is not None}


def open_split(data: str, root: str, split: str, option: list[str] | None, subset: bool) -> Corpus:
    """The corpus that the common options ask for. Raises InputError."""
    from clearcap.data.corpus import open_corpus
    from clearcap.errors import InputError

    if not root:
        raise InputError("no --root; pass the corpus's folder, as in --data flickr8k --root DIR")
    expected: Expected = None if subset else "official"
    return open_corpus(data, root, split or _usual_split(data), expected=expected, **key_values(option))


def _usual_split(data: str) -> str:
    from clearcap.data.corpus import SPLITS

    return next((name for name in SPLITS.get(data, ()) if name in ("dev", "val")), "all")


def key_values(texts: list[str] | None) -> dict[str, Any]:
    """Options of a corpus's reader, each KEY=VALUE. Raises InputError."""
    from clearcap.errors import InputError

    options: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--option {text!r} is not of the form KEY=VALUE")
        options[key] = value
    return options


def numbers(text: str, kind: type[Number], name: str) -> list[Number]:
    """``1,2,5`` as a list; empty text is none. Raises InputError."""
    from clearcap.errors import InputError

    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError as fault:
        raise InputError(f"{name} {text!r} is not a list of numbers such as 1,2,5") from fault


@contextmanager
def shown_progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error, moved by calling (done, total) or (done, total, what)."""
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
    task = bar.add_task(what, total=None)

    def advance(done: int, total: int, now: str = what) -> None:
        bar.start()  # no sooner, so that an error before the first photo is the only line
        bar.update(task, completed=done, total=total, description=now)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
