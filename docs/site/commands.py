"""The command reference: a page for each command, from the command line's own table."""

from __future__ import annotations

import enum
import inspect
import re
import types
from importlib import import_module
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

GROUPS = {
    "Captioning": ("caption", "fill", "watch", "bulk", "demo", "serve", "remember", "models", "info"),
    "Scoring": ("evaluate", "score", "evaluate-fill", "table", "study", "data"),
    "Training": (
        "train",
        "finetune",
        "self-critical",
        "label",
        "distill-steps",
        "train-scorer",
        "add-encoder",
        "finetune-encoder",
        "distill",
        "pretrain-text",
        "compute-stats",
        "export",
    ),
    "Measuring and other people's models": ("bench", "convert", "parity"),
}


def table_of_commands() -> dict[str, Any]:
    """Every command of the command line by name; commands with commands of their own among them."""
    import typer

    main = import_module("clearcap.cli.main")  # the room's own name for it is a function
    if not main.app.registered_commands:
        main._register()
    whole: Any = typer.main.get_command(main.app)
    return dict(whole.commands)


def pages() -> dict[str, str]:
    """Markdown by path: an index and a page for each command."""
    found = table_of_commands()
    named = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "Others": tuple(name for name in found if name not in named)}
    made = {
        f"commands/{name}.md": page(name, command) for name, command in found.items() if not command.hidden
    }
    index = [
        "# Commands",
        "",
        "Made from the command line itself. `clearcap COMMAND --help` prints the same. Options that hold for every",
        "command stand before its name: `clearcap --plugin FILE COMMAND`, `--quiet`, `--verbose`, `--version`.",
        "A command that meets a bad input says so in one line on standard error and ends with status 1.",
        "",
    ]
    listed = []
    for title, names in groups.items():
        there = [name for name in names if f"commands/{name}.md" in made]
        if there:
            index += [f"## {title}", "", "| command | what it does |", "|---|---|"]
            index += [f"| [{name}]({name}.md) | {cell(found[name].help)} |" for name in there]
            index.append("")
            listed += there
    index += [":::{toctree}", ":hidden:", "", *listed, ":::", ""]
    made["commands/index.md"] = "\n".join(index)
    return made


def page(name: str, command: Any) -> str:
    """One command's page."""
    lines = [f"# clearcap {name}", "", paragraph(command.help), ""]
    inner = getattr(command, "commands", None)
    if inner:
        for child, below in inner.items():
            lines += [
                f"## clearcap {name} {child}",
                "",
                paragraph(below.help),
                "",
                *body(f"{name} {child}", below),
            ]
    else:
        lines += body(name, command)
    return "\n".join(lines)


def body(name: str, command: Any) -> list[str]:
    """Usage, arguments and options."""
    shown = [one for one in command.params if not one.hidden and one.name != "help"]
    arguments = [one for one in shown if type(one).__name__.endswith("Argument")]
    options = [one for one in shown if one not in arguments]
    words = [f"{one.name.upper()}{'...' if one.nargs == -1 else ''}" for one in arguments]
    words = [word if one.required else f"[{word}]" for word, one in zip(words, arguments, strict=True)]
    lines = ["```text", " ".join(["clearcap", name, *(["[OPTIONS]"] if options else []), *words]), "```", ""]
    if arguments:
        lines += ["| argument | |", "|---|---|"]
        lines += [row(f"`{one.name.upper()}`", one) for one in arguments]
        lines.append("")
    if options:
        lines += ["| option | |", "|---|---|"]
        lines += [
            row(", ".join(f"`{way}`" for way in [*one.opts, *one.secondary_opts]), one) for one in options
        ]
        lines.append("")
    return lines


def row(name: str, one: Any) -> str:
    """A line of a table of arguments or options."""
    about = [kind(one.type_descriptor.annotation)]
    if one.required:
        about.append("required")
    elif one.default not in (None, "", [], ()) and (one.default is not False or one.secondary_opts):
        about.append(f"default `{one.default}`")
    return f"| {name} | {cell(one.help)} (*{', '.join(about)}*) |"


def kind(annotation: Any) -> str:
    """A type as a reader of the command line thinks of it."""
    plain = {str: "text", int: "integer", float: "number", bool: "switch"}
    if annotation in plain:
        return plain[annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return kind(next(one for one in get_args(annotation) if one is not type(None)))
    if get_origin(annotation) is Annotated:
        return kind(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return f"{kind(get_args(annotation)[0])}, repeated"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return " or ".join(str(one.value) for one in annotation)
    return (
        "path"
        if getattr(annotation, "__name__", "") == "Path"
        else getattr(annotation, "__name__", str(annotation))
    )


def cell(text: str | None) -> str:
    """Help as a cell of a table."""
    return paragraph(text).replace("|", "\\|").replace("\n", " ")


def paragraph(text: str | None) -> str:
    """Help as Markdown: double backticks to single, angle brackets as such."""
    plain = re.sub(r"``(.+?)``", r"`\1`", text or "")
    pieces = re.split(r"(`[^`]*`)", plain)
    return "".join(one if one.startswith("`") else re.sub(r"([<>*_{}\[\]])", r"\\\1", one) for one in pieces)


def settings_page() -> str:
    """Every setting of a preset and of the training commands, with its default and what it sets."""
    import dataclasses

    from clearcap.config import Preset

    lines = [
        "# Settings",
        "",
        "A captioner and its training are described by settings in sections. A preset is a TOML file of them; on the",
        "command line any of them is changed by its dotted name, `train.lr=1e-4`. Those of `sampling` are also what",
        "`--set` takes, what `CaptionPipeline` takes as keyword arguments, and what the HTTP service takes as fields.",
        "`clearcap train --settings` prints this list.",
        "",
    ]
    hints = get_type_hints(Preset)
    for section in dataclasses.fields(Preset):
        kind_of = hints[section.name]
        if not dataclasses.is_dataclass(kind_of):
            continue
        lines += [f"## {section.name}", "", paragraph((kind_of.__doc__ or "").splitlines()[0]), ""]
        lines += ["| setting | default | |", "|---|---|---|"]
        for one in dataclasses.fields(kind_of):
            about = cell(one.metadata.get("help", ""))
            choices = one.metadata.get("choices") or ()
            more = f" ({', '.join(f'`{choice}`' for choice in choices)})" if choices else ""
            default = one.default if one.default is not dataclasses.MISSING else ""
            shown = "" if default in ("", ()) else f"`{default}`"
            lines.append(f"| `{section.name}.{one.name}` | {shown} | {about}{more} |")
        lines.append("")
    return "\n".join(lines)


def presets_page() -> str:
    """Every preset as it lies in the package."""
    from importlib import resources

    from clearcap.config import presets

    lines = [
        "# Presets",
        "",
        "A preset is a TOML file of [settings](settings.md) that may build on another (`base`). These ship;",
        "`clearcap train NAME` takes one by name, `clearcap train mine.toml` takes a file of yours.",
        "",
    ]
    for name in sorted(presets()):
        text = (resources.files("clearcap") / "configs" / f"{name}.toml").read_text()
        lines += [
            f"## {name}",
            "",
            "<!-- not run: a preset is read, not run -->",
            "```toml",
            text.rstrip(),
            "```",
            "",
        ]
    return "\n".join(lines)
