"""``python -m benchmarks.rivals``: our captioners beside BLIP-base and GIT-base, timed in one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.chart import save_chart
from benchmarks.comparison import Comparison, compare
from benchmarks.evaluations import read_quality
from benchmarks.tables import ratios_table, settings_table, times_table
from clearcap.data.writing import write_json
from clearcap.errors import InputError


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
    """Ours beside BLIP-base and GIT-base of transformers, with random weights: time, operations, ratios."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    numbers = {"lengths": lengths, "batches": batches, "candidates": candidates}
    parsed = {name: integers(name, text) for name, text in numbers.items()}
    qualities = [read_quality(folder) for folder in evaluation or []]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("building")
        found = compare(
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
        for table in (times_table(found), settings_table(found), ratios_table(found)):
            Console().print(table)
    if out is not None:
        for path in write_comparison(found, out):
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def integers(name: str, text: str) -> list[int]:
    """Numbers separated by commas. Raises InputError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as fault:
        raise InputError(f"--{name} {text!r} is no list of numbers such as 8,16,32") from fault


def write_comparison(found: Comparison, out: Path) -> list[Path]:
    """Chart and JSON of a comparison. Raises InputError where the folder cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder") from error
    chart, numbers = out / "rivals.png", out / "rivals.json"
    save_chart(found, chart)
    write_json(numbers, found.to_json())
    return [chart, numbers]


def main() -> None:
    """Entry point: a bad input is one line on standard error and exit status 1."""
    try:
        typer.run(rivals)
    except InputError as fault:
        print(f"benchmarks.rivals: {fault}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
