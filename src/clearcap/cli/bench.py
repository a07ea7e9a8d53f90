"""``clearcap bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    what: Annotated[
        str, typer.Argument(help="latency (one photo, a trained model) or ladic-base (paper size)")
    ] = "latency",
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    photo: Annotated[Path | None, typer.Option(help="photo; default is one that matplotlib ships")] = None,
    repeats: Annotated[int, typer.Option(help="counted runs")] = 30,
) -> None:
    """Measure speed, side by side in one run."""
    from rich.console import Console
    from rich.table import Table

    from clearcap.errors import InputError

    if what == "ladic-base":
        from clearcap.bench.paper_size import run

        run()
        return
    if what != "latency":
        raise InputError(f"unknown benchmark {what!r}; choose latency or ladic-base")
    from clearcap.bench.latency import caption_latency, sample_photo

    table = Table("one photo", "median ms", "least", "greatest", title=f"model: {model}")
    for row in caption_latency(model, photo or sample_photo(), repeats=repeats):
        table.add_row(row.name, f"{row.median:.1f}", f"{row.least:.1f}", f"{row.greatest:.1f}")
    Console().print(table)
