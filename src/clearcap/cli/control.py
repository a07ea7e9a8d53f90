"""``clearcap fill`` and ``clearcap watch``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli.options import Settings, Steps, sampling_settings


def fill(
    photo: Annotated[str, typer.Argument(help="photo: path or URL")],
    template: Annotated[
        str, typer.Argument(help='caption with blanks: "two ___ on a ___"; ___{1,3} is a range of words')
    ] = "",
    contain: Annotated[
        list[str] | None, typer.Option(help="word the caption must contain; may be repeated")
    ] = None,
    prefix: Annotated[str, typer.Option(help="how the caption begins")] = "",
    length: Annotated[str, typer.Option(help="words: 8, or 6-10")] = "",
    edit: Annotated[str, typer.Option(help="caption to redo but for the words of --keep")] = "",
    keep: Annotated[list[str] | None, typer.Option(help="word of it to keep; may be repeated")] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(help="word that no blank may be filled with; may be repeated")
    ] = None,
    slack: Annotated[int, typer.Option(help="words more or fewer that a redone run may have")] = 0,
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance scale")] = None,
    candidates: Annotated[int | None, typer.Option(help="samples of each placement; the surest wins")] = None,
    setting: Settings = None,
    seed: Annotated[int, typer.Option(help="same seed, same words")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Caption a photo under constraints: blanks to fill, words to contain, a beginning, a length, words to keep."""
    from clearcap.errors import InputError
    from clearcap.pipeline import CaptionPipeline
    from clearcap.pipeline.infilling import edit_template, keyword_templates, length_template

    asked = [bool(template), bool(contain), bool(prefix), bool(edit)]
    if sum(asked) > 1 or ((template or edit) and length) or not (any(asked) or length):
        raise InputError(
            "ask for one thing: a template with ___, --contain WORD, --prefix TEXT, --edit CAPTION with --keep WORD, "
            "or --length N alone"
        )
    if (keep or slack) and not edit:
        raise InputError("--keep and --slack say what to leave of --edit CAPTION; pass that too")
    low, high = _range(length or "6-10")
    wanted = (
        template
        or (keyword_templates(contain, low, high) if contain else None)
        or (edit_template(edit, keep or [], slack) if edit else None)
        or length_template(low, high, prefix)
    )
    how = sampling_settings(setting, steps=steps, guidance=guidance, candidates=candidates)
    pipeline = CaptionPipeline.from_pretrained(model, backend="fast")
    filled = pipeline.fill(photo, wanted, seed=seed, forbid=forbid or [], **how)
    if as_json:
        told = {"image": photo, "text": filled.text, "words": filled.words, "confidence": filled.confidence}
        print(json.dumps(told))
    else:
        print(filled.text)


def watch(
    photo: Annotated[str, typer.Argument(help="photo: path or URL")],
    out: Annotated[Path | None, typer.Option(help="picture (.png) or animation (.gif) to write")] = None,
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    steps: Steps = None,
    setting: Settings = None,
    seed: Annotated[int, typer.Option(help="same seed, same caption")] = 0,
    attention: Annotated[
        Path | None, typer.Option(help="picture to write of where each word of the caption looks")
    ] = None,
    noise: Annotated[
        bool, typer.Option("--noise", help="begin with the noise itself, read as words")
    ] = False,
) -> None:
    """Watch a caption come out of the noise, word by word of growing confidence."""
    from rich.console import Console
    from rich.live import Live

    from clearcap.data.images import open_image
    from clearcap.pipeline import CaptionPipeline
    from clearcap.pipeline.trajectory import check_picture, save_picture, table
    from clearcap.pipeline.words import save_attention

    for picture in (out, attention):
        if picture is not None:
            check_picture(picture)
    how = sampling_settings(setting, steps=steps)
    pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked" if attention else "fast")
    total = pipeline.sampling(**how).steps + noise
    with Live(console=Console(), refresh_per_second=20) as live:
        frames = pipeline.trajectory(
            photo,
            seed=seed,
            show=lambda frames: live.update(table(frames, total), refresh=True),
            noise=noise,
            **how,
        )
    if out is not None:
        save_picture(frames, out, open_image(photo))
    if attention is not None:
        save_attention(pipeline.attention(photo, frames[-1].text, **how), photo, attention)


def _range(text: str) -> tuple[int, int]:
    from clearcap.errors import InputError

    low, dash, high = text.partition("-")
    try:
        return int(low), int(high) if dash else int(low)
    except ValueError as fault:
        raise InputError(f"--length {text!r} is neither a number nor a range such as 6-10") from fault
