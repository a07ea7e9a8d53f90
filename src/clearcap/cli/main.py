"""The table of commands; each one's work is a library function."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from typing import Annotated

import typer

from clearcap.config import __version__
from clearcap.data.writing import full, is_full
from clearcap.errors import InputError, RenamedWarning, needed

app = typer.Typer(
    name="clearcap",
    help="Image captions from diffusion: all words at once, refined from noise.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
RENAMED_OPTIONS = {
    "caption": {"--words": "--length"},
    "fill": {"--words": "--length"},
}  # old ones go with 0.2
ANYWHERE = {"-q", "--quiet", "-v", "--verbose"}  # options of every command
log = logging.getLogger("clearcap")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"clearcap {__version__}")
        raise typer.Exit


@app.callback()
def general(
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Python file or module that registers parts of your own; may be repeated"),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="errors alone on standard error; after the command, too")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="say what runs where, and how long it took")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Image captions from diffusion: all words at once, refined from noise."""
    from clearcap.registry import load_plugin

    log.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    for source in plugin or []:
        load_plugin(source)


def _register() -> None:
    from clearcap.cli import (
        bench,
        bulk,
        calibrate,
        caption,
        control,
        data,
        demo,
        evaluate,
        filling,
        labelling,
        memory,
        published,
        rate,
        score,
        serve,
        study,
        table,
        train,
    )

    for command in (
        caption.caption,
        caption.info,
        caption.models,
        bulk.bulk,
        train.train,
        train.finetune,
        train.distill,
        train.pretrain_text,
    ):
        app.command()(command)
    app.command()(train.export)
    app.command("distill-steps")(train.distill_steps)
    app.command("self-critical")(train.self_critical)
    app.command("add-encoder")(train.add_encoder)
    app.command("finetune-encoder")(train.finetune_encoder)
    app.command()(control.fill)
    app.command()(control.watch)
    app.command()(memory.remember)
    app.command()(calibrate.calibrate)
    app.command()(labelling.label)
    app.command("train-scorer")(train.train_scorer)
    app.command("compute-stats")(train.compute_stats)
    app.command()(evaluate.evaluate)
    app.command()(table.table)
    app.command()(study.study)
    app.command()(filling.evaluate_fill)
    app.command()(score.score)
    app.command()(published.parity)
    app.command()(serve.serve)
    app.command()(demo.demo)
    app.add_typer(bench.app, name="bench")
    app.add_typer(published.convert, name="convert")
    app.add_typer(data.app, name="data")
    app.add_typer(rate.app, name="rate")


def main() -> None:
    """Entry point: a bad input is one line on standard error and exit status 1."""
    _register()
    warnings.simplefilter("always", RenamedWarning)
    warnings.filterwarnings("ignore", module="PIL")  # they do not say of which photo; its error does
    warnings.showwarning = _one_line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that cannot be shown ends no run
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("clearcap: %(message)s"))
    log.handlers = [handler]
    words, rest = sys.argv[1:], []
    if "--" in words:
        words, rest = words[: words.index("--")], words[words.index("--") :]
    if not {"-q", "--quiet"}.isdisjoint(words):
        log.setLevel(logging.ERROR)  # sooner than the first warning
    try:
        try:
            app(args=[*sorted(renamed(words), key=lambda word: word not in ANYWHERE), *rest])
        finally:
            sys.stdout.flush()
    except InputError as fault:
        print(f"clearcap: {fault}", file=sys.stderr)
        sys.exit(1)
    except Exception as fault:
        told = needed(fault, "this") if isinstance(fault, ModuleNotFoundError) else None
        if is_full(fault):
            told = str(full("the output", fault))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would say so again when it ends
        if told is None:
            raise
        print(f"clearcap: {told}", file=sys.stderr)
        sys.exit(1)


def renamed(words: list[str]) -> list[str]:
    """The command line with options under today's names."""
    command = next((word for word in words if word in RENAMED_OPTIONS), "")
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        new = RENAMED_OPTIONS.get(command, {}).get(option)
        if new:
            warnings.warn(f"the option {option} is called {new} now", RenamedWarning, stacklevel=2)
        found.append(f"{new}{equals}{value}" if new else word)
    return found


def _one_line(message: Warning | str, *about: object, **more: object) -> None:
    """A warning as a user reads it."""
    log.warning(message)
