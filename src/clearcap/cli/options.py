"""What commands over a whole split have in common: their options, the split they ask for, the bar they show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from clearcap.errors import InputError, RenamedWarning

if TYPE_CHECKING:
    from rich.console import Console

    from clearcap.data.records import Corpus
    from clearcap.pipeline.memory import Memory

Number = TypeVar("Number", int, float)

Model = Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")]
Data = Annotated[
    str,
    typer.Option(help="corpus as NAME:ROOT:SPLIT, such as flickr8k:DIR; without SPLIT its dev split, or all"),
]
Root = Annotated[str, typer.Option(help="deprecated: pass --data NAME:ROOT:SPLIT", hidden=True)]
Split = Annotated[str, typer.Option(help="deprecated: pass --data NAME:ROOT:SPLIT", hidden=True)]
ReaderOption = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE the corpus's reader knows, such as photos=DIR")
]
Subset = Annotated[bool, typer.Option("--subset", help="the split need not have its published size")]
Limit = Annotated[int | None, typer.Option(help="only the first photos of the split")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of any sampling setting, such as refine_time=0.7; may be repeated"),
]
Select = Annotated[
    str | None,
    typer.Option(
        help="choice among candidates: mbr, confidence, similarity, mbr-and-similarity, confidence-and-similarity or "
        "neighbours"
    ),
]
MemoryFolder = Annotated[
    Path | None, typer.Option(help="folder of remembered photos (clearcap remember) whose captions help")
]
Neighbours = Annotated[int, typer.Option(help="remembered photos that are looked up for each photo")]
Steps = Annotated[int | None, typer.Option(help="calls of the denoiser")]
Length = Annotated[int | None, typer.Option(help="words to write; 0: as the model sees fit")]
Candidates = Annotated[int | None, typer.Option(help="captions sampled for each photo")]
Tokenizer = Annotated[
    str, typer.Option(help="what scores take for words: ptb (COCO's) or unicode (any script)")
]
Seed = Annotated[int, typer.Option(help="same seed, same captions")]
Recursive = Annotated[bool, typer.Option(help="photos in folders below a folder, too")]
ImageColumn = Annotated[
    str | None, typer.Option(help="of parquet and Arrow files; default is image, img, photo ...")
]
Prefix = Annotated[str, typer.Option(help="before each caption")]
Suffix = Annotated[str, typer.Option(help="after each caption")]
Around = Annotated[
    str, typer.Option(help="around each caption: {caption}, {name}, {folder}, {confidence:.2f}")
]
Dtype = Annotated[str | None, typer.Option(help="of the weights: float32, bfloat16 ... or auto")]
Backend = Annotated[str, typer.Option(help="fast, torch, prepacked, compiled or onnx")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def told_words(tokenizer: str) -> str:
    """What a table of scores says of its tokeniser: nothing of COCO's."""
    return "" if tokenizer == "ptb" else f", words by --tokenizer {tokenizer}"


def sampling_settings(setting: list[str] | None, **flags: Any) -> dict[str, Any]:
    """Sampling settings of ``--set`` and of options of their own, which win where they are given. Raises InputError."""
    from clearcap.config import SamplingConfig, changes

    return changes(SamplingConfig, setting or []) | {k: v for k, v in flags.items() if v is not None}


def open_memory(folder: Path | None, neighbours: int) -> Memory | None:
    """The memory that the common options ask for. Raises InputError."""
    if folder is None:
        return None
    from clearcap.pipeline.memory import Memory

    return Memory.load(folder, neighbours)


def spelt(data: str, root: str, split: str) -> str:
    """NAME:ROOT:SPLIT, also from the deprecated options that name the three apart."""
    if not root and not split:
        return data
    told = "naming a corpus, its folder and its split apart is deprecated; pass NAME:ROOT:SPLIT"
    warnings.warn(told, RenamedWarning, stacklevel=2)
    name = data or "flickr8k"  # what the deprecated options meant without a name
    return ":".join([name, root, split] if root else [name, split])


def open_split(data: str, root: str, split: str, option: list[str] | None, subset: bool) -> Corpus:
    """The corpus that the common options ask for. Raises InputError."""
    from clearcap.data.corpus import open_spec

    if not data and not root:
        raise InputError("no --data; pass the corpus as NAME:ROOT:SPLIT, as in --data flickr8k:DIR:dev")
    return open_spec(spelt(data, root, split), expected=None if subset else "official", **key_values(option))


def key_values(texts: list[str] | None) -> dict[str, Any]:
    """Options of a corpus's reader, each KEY=VALUE. Raises InputError."""
    options: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--option {text!r} is not of the form KEY=VALUE")
        options[key] = value
    return options


def number_list(text: str, kind: type[Number], name: str) -> list[Number]:
    """``1,2,5`` as a list; empty text is none. Raises InputError."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError as fault:
        raise InputError(f"{name} {text!r} is not a list of numbers such as 1,2,5") from fault


@contextmanager
def shown_progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar on standard error, moved by calling (done, total) or (done, total, what)."""
    from rich import progress
    from rich.console import Console

    columns = ("{task.description}", progress.BarColumn(), progress.MofNCompleteColumn())
    times = (progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
    bar = progress.Progress(*columns, *times, console=Console(stderr=True))
    task = bar.add_task(what, total=None)

    def advance(done: int, total: int, now: str = what) -> None:
        bar.start()  # no sooner, so that an error before the first photo is the only line
        bar.update(task, completed=done, total=total, description=now)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def show_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    *,
    title: str,
    caption: str | None = None,
    words: Collection[str] = ("metric",),
    width: int | None = None,
) -> Console:
    """Print a table on standard output.

    Args:
        headings: of the columns.
        rows: their cells; None is a line between groups of rows.
        title: above the table.
        caption: below it.
        words: headings of the columns that hold words, which begin at the left.
        width: of the table where the output is no terminal.

    Returns:
        What else can be printed with.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    console = Console(width=None if Console().is_terminal else width)
    console.print(table)
    return console


def in_interval(interval: Sequence[float] | None, form: str = ".4f") -> str:
    """Its two ends; nothing where there is no interval."""
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
