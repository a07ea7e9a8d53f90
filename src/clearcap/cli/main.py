"""The table of commands; each one's work is a library function."""

from __future__ import annotations

import sys

import typer

from clearcap.errors import InputError

app = typer.Typer(
    name="clearcap",
    help="Image captions from diffusion: all words at once, refined from noise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _register() -> None:
    from clearcap.cli import bench, caption, control, data, evaluate, filling, published, score, table, train

    for command in (caption.caption, caption.info, train.train, train.distill, train.pretrain_text):
        app.command()(command)
    app.command()(train.export)
    app.command("distill-steps")(train.distill_steps)
    app.command("add-encoder")(train.add_encoder)
    app.command("finetune-encoder")(train.finetune_encoder)
    app.command()(control.fill)
    app.command()(control.watch)
    app.command("compute-stats")(train.compute_stats)
    app.command()(evaluate.evaluate)
    app.command()(table.table)
    app.command()(filling.evaluate_fill)
    app.command()(score.score)
    app.add_typer(bench.app, name="bench")
    app.command()(published.parity)
    app.add_typer(bench.app, name="bench")
    app.add_typer(published.convert, name="convert")
    app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point: a bad input is one line on standard error and exit status 1."""
    _register()
    try:
        app()
    except InputError as fault:
        print(f"clearcap: {fault}", file=sys.stderr)
        sys.exit(1)
