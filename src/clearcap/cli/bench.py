"""``clearcap bench``: how fast, against what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from clearcap.bench.backends import Row, Took
    from clearcap.bench.contest import Contest
    from clearcap.bench.race import Timing

app = typer.Typer(help="Measure speed, side by side in one run.", invoke_without_command=True)

Model = Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")]
Photo = Annotated[Path | None, typer.Option(help="photo; default is one that matplotlib ships")]
Repeats = Annotated[int, typer.Option(help="counted runs")]


@app.callback()
def bench(
    context: typer.Context, model: Model = "default", photo: Photo = None, repeats: Repeats = 30
) -> None:
    """Measure speed, side by side in one run; without a command, ``latency``."""
    if context.invoked_subcommand is None:
        latency(model, photo, repeats)


@app.command()
def latency(model: Model = "default", photo: Photo = None, repeats: Repeats = 30) -> None:
    """One photo with a trained model, warm and in a fresh process."""
    from rich.console import Console
    from rich.table import Table

    from clearcap.bench.latency import caption_latency, sample_photo

    table = Table("one photo", "median ms", "least", "greatest", title=f"model: {model}")
    for row in caption_latency(model, photo or sample_photo(), repeats=repeats):
        table.add_row(row.name, f"{row.median:.1f}", f"{row.least:.1f}", f"{row.greatest:.1f}")
    Console().print(table)


@app.command("ladic-base")
def ladic_base() -> None:
    """The published sampling loop against ours, at paper size with random weights."""
    from clearcap.bench.paper_size import run

    run()


@app.command()
def backends(
    model: Model = "default",
    photo: Photo = None,
    repeats: Repeats = 20,
    data: Annotated[str, typer.Option(help="corpus whose photos are captioned: flickr8k, coco ...")] = "",
    root: Annotated[str, typer.Option(help="its folder; without one, only one photo is timed")] = "",
    split: Annotated[str, typer.Option(help="split of the corpus")] = "dev",
    limit: Annotated[int | None, typer.Option(help="only the first photos of the split")] = None,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    steps: Annotated[int | None, typer.Option(help="calls of the denoiser")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same captions")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """One captioner in torch and ONNX, in float32, bf16 and int8: time, equal tokens, CIDEr-D."""
    import tempfile

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from clearcap.bench.backends import compare_backends, open_backends
    from clearcap.bench.latency import sample_photo
    from clearcap.data.corpus import open_corpus

    photos = open_corpus(data or "flickr8k", root, split).photos[:limit] if root else ()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("writing graphs", total=None)
        opened = open_backends(model, Path(folder))
        bar.update(task, description="captioning")
        rows = compare_backends(
            opened,
            photo or sample_photo(),
            photos,
            batch_size=batch_size,
            repeats=repeats,
            seed=seed,
            steps=steps,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print(json.dumps({"photos": len(photos), "backends": [row.to_json() for row in rows]}))
    else:
        _print_backends(rows, model, len(photos), batch_size)


def _took(time: Took) -> str:
    return f"{time.wall:.1f} ({time.cpu:.1f})"


def _print_backends(rows: list[Row], model: str, photos: int, batch_size: int) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{model}: median ms, from pixels to tokens",
        caption=f"threads: {torch.get_num_threads()}; photos captioned: {photos:,}; in turn, in one process; "
        "CPU time of all threads in brackets, which other jobs hardly change",
    )
    table.add_column("backend")
    table.add_column("one photo", justify="right")
    headings = (f"a photo of {batch_size}", "equal tokens", "equal photos", "CIDEr-D", "loss, 95% interval")
    for heading in headings if photos else ():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [row.name, _took(row.alone)]
        if row.together is not None and row.tokens is not None and row.cider is not None and row.loss:
            lost, low, high = row.loss
            cells += [_took(row.together), f"{row.tokens:.3%}", f"{row.photos:,} of {photos:,}"]
            cells += [f"{row.cider:.4f}", f"{lost:+.4f} ({low:+.4f} to {high:+.4f})"]
        table.add_row(*cells)
    Console().print(table)


@app.command()
def rivals(
    lengths: Annotated[str, typer.Option(help="tokens of a caption, one photo at once")] = "8,16,32,48",
    sizes: Annotated[str, typer.Option(help="of ours: bundled, paper")] = "bundled,paper",
    batches: Annotated[str, typer.Option(help="photos at once, at WORDS tokens")] = "1,8",
    candidates: Annotated[str, typer.Option(help="captions of a photo, at WORDS tokens")] = "1,3,10",
    words: Annotated[int, typer.Option(help="tokens at which batches and candidates are measured")] = 16,
    repeats: Annotated[int, typer.Option(help="timed rounds over everything")] = 3,
    dtype: Annotated[str, typer.Option(help="everyone's: float32 or bfloat16")] = "float32",
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="OUT folder of clearcap evaluate, to show quality against time")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for rivals.png and rivals.json")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Ours beside BLIP-base and GIT-base of transformers, with random weights: time, operations, statements."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from clearcap.bench.contest import contest
    from clearcap.bench.evaluated import read_quality

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    numbers = {"lengths": lengths, "batches": batches, "candidates": candidates}
    parsed = {name: integers(name, text) for name, text in numbers.items()}
    qualities = [read_quality(folder) for folder in evaluation or []]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("building")
        found = contest(
            **parsed,
            sizes=[size.strip() for size in sizes.split(",")],
            words=words,
            rounds=repeats,
            dtype=dtype,
            qualities=qualities,
            progress=lambda done, total, what: bar.update(
                task, completed=done, total=total, description=what
            ),
        )
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        for table in (times_table(found), settings_table(found), claims_table(found)):
            Console().print(table)
    if out is not None:
        for path in write_contest(found, out):
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def integers(name: str, text: str) -> list[int]:
    """Numbers separated by commas. Raises InputError."""
    from clearcap.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as fault:
        raise InputError(f"--{name} {text!r} is no list of numbers such as 8,16,32") from fault


def write_contest(found: Contest, out: Path) -> list[Path]:
    """Picture and JSON of a comparison. Raises InputError where the folder cannot be made."""
    from clearcap.bench.picture import save_picture
    from clearcap.errors import InputError
    from clearcap.evaluation.files import write_json

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder") from error
    picture, numbers = out / "rivals.png", out / "rivals.json"
    save_picture(found, picture)
    write_json(found.to_json(), numbers)
    return [picture, numbers]


def times_table(found: Contest) -> Table:
    """A line a system, a column a length: milliseconds of one photo; then growth, operations and share."""
    from rich.table import Table

    from clearcap.bench.claims import growth

    machine = found.machine
    alone = [t for t in found.timings if (t.setting.batch, t.setting.candidates) == (1, 1)]
    lengths = sorted({t.setting.tokens for t in alone})
    middle = found.words if found.words in lengths else lengths[0]
    table = Table(
        title=f"One photo, {machine['dtype']} on {machine['device']}, {machine['threads']} threads",
        caption=f"median of {machine['rounds']} rounds; a large matrix product runs at "
        f"{machine['matrix_gflops']:,.0f} GFLOP/s; rounds differ {machine['noise']:.2f}x",
    )
    table.add_column("system")
    for heading in (*(f"{n} tokens, ms" for n in lengths), "growth", "GFLOP", "of peak"):
        table.add_column(heading, justify="right")
    for system in dict.fromkeys(t.system for t in alone):
        row = {t.setting.tokens: t for t in alone if t.system == system}
        grown = growth(found.timings, system)
        table.add_row(
            system,
            *(_ms(row.get(n)) for n in lengths),
            f"{grown.measured:.2f}x" if grown else "",
            *((f"{row[middle].gflop:.1f}", f"{row[middle].share:.0%}") if middle in row else ("", "")),
        )
    return table


def settings_table(found: Contest) -> Table:
    """Milliseconds and photos a second at batches and candidates."""
    from rich.table import Table

    rows = [
        t
        for t in found.timings
        if t.setting.tokens == found.words
        and any(o.system == t.system and o.setting != t.setting for o in _at(found, found.words))
    ]
    table = Table(title=f"Batches and candidates, {found.words} tokens")
    table.add_column("system")
    for heading in ("photos", "candidates", "ms / photo", "photos / s", "GFLOP / photo", "of peak"):
        table.add_column(heading, justify="right")
    names = list(dict.fromkeys(t.system for t in rows))
    for t in sorted(rows, key=lambda t: (names.index(t.system), t.setting)):
        table.add_row(
            t.system,
            str(t.setting.batch),
            str(t.setting.candidates),
            _ms(t),
            f"{1 / t.seconds:.2f}",
            f"{t.gflop:.1f}",
            f"{t.share:.0%}",
        )
    return table


def claims_table(found: Contest) -> Table:
    """Each statement's measured ratio beside the asked one."""
    from rich.table import Table

    table = Table(title="What is said, and what was measured")
    table.add_column("ratio of times")
    for heading in ("measured", "least to greatest", "asked", ""):
        table.add_column(heading, justify="right")
    for claim in found.claims:
        table.add_row(
            claim.statement,
            f"{claim.measured:.2f}",
            f"{claim.low:.2f} to {claim.high:.2f}",
            f"{claim.sign} {claim.asked:g}",
            "yes" if claim.holds else "no",
        )
    return table


def _at(found: Contest, words: int) -> Sequence[Timing]:
    return [t for t in found.timings if t.setting.tokens == words]


def _ms(timing: Timing | None) -> str:
    return f"{timing.seconds * 1e3:,.0f}" if timing else ""
