"""``clearcap bench``: how fast, against what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clearcap.bench.backends import Row, Took

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


@app.command()
def backends(
    model: Model = "default",
    photo: Photo = None,
    repeats: Repeats = 20,
    data: Annotated[
        str, typer.Option(help="corpus NAME:ROOT:SPLIT to caption; without one, only one photo is timed")
    ] = "",
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
    from clearcap.data.corpus import open_spec

    photos = open_spec(data).photos[:limit] if data else ()
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


@app.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def rivals() -> None:
    """Moved to the repository, as comparisons with other people's models are."""
    _moved("rivals", "rivals")


@app.command("ladic-base", hidden=True)
def ladic_base() -> None:
    """Moved to the repository, as comparisons with other people's code are."""
    _moved("ladic-base", "paper_size")


def _moved(command: str, module: str) -> None:
    from clearcap.errors import InputError

    raise InputError(
        f"bench {command} has moved: run python -m benchmarks.{module} from a checkout of the repository"
    )
