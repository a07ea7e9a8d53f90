"""``clearcap caption``, ``clearcap info`` and ``clearcap models``."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Annotated, Any

import typer

from clearcap.cli.options import Settings, sampling_settings

log = logging.getLogger("clearcap")
SUMMARY = {  # what one screen of ``clearcap info`` says of each part
    "text": ("kind", "length"),
    "vision": ("kind", "image_size", "tokens"),
    "denoiser": ("kind", "width", "depth", "heads"),
    "diffusion": ("objective", "schedule", "steps"),
    "sampling": ("solver", "steps", "guidance", "length", "candidates", "select"),
}


def json_line(value: Any) -> str:
    """JSON on one line that is valid UTF-8 whatever it holds and whatever standard output is: escaped where need be."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
        if text.encode(sys.stdout.encoding) == text.encode("utf-8"):
            return text
    except UnicodeEncodeError:
        pass
    return json.dumps(value)


def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="photos, folders, globs or URLs; @FILE and - (standard input) are lists of them",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    steps: Annotated[int | None, typer.Option(help="calls of the denoiser")] = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance scale")] = None,
    length: Annotated[int | None, typer.Option(help="words to write; 0: as the model sees fit")] = None,
    candidates: Annotated[int | None, typer.Option(help="captions sampled for each photo")] = None,
    select: Annotated[
        str | None, typer.Option(help="choice among candidates: mbr, confidence or similarity")
    ] = None,
    utility: Annotated[
        str | None, typer.Option(help="what mbr compares candidates by: bleu or cider")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="folder or hub name of a CLIP, which similarity goes by")
    ] = None,
    diverse: Annotated[
        int, typer.Option(help="captions to print of each photo, unlike each other; 0: the chosen one")
    ] = 0,
    refine: Annotated[bool | None, typer.Option(help="Back&Refine: redo the least certain words")] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, renoise, ddpm, dpm-solver or plain")] = None,
    setting: Settings = None,
    seed: Annotated[int, typer.Option(help="same seed, same captions")] = 0,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object a line on standard output")
    ] = False,
) -> None:
    """Caption photos. A photo that cannot be read is one line on standard error; the others still finish."""
    from rich.console import Console
    from rich.progress import Progress

    from clearcap.config import number
    from clearcap.data.paths import expand
    from clearcap.errors import InputError
    from clearcap.pipeline import CaptionPipeline

    diverse = number("--diverse", diverse, int, 0)
    entries = expand(paths)
    began = time.perf_counter()
    pipeline = CaptionPipeline.from_pretrained(model, backend="fast", clip=clip)
    how = sampling_settings(
        setting,
        steps=steps,
        guidance=guidance,
        length=length,
        candidates=candidates,
        select=select,
        utility=utility,
        refine=None if refine is None else int(refine),
        solver=solver,
    )
    if diverse:
        how.setdefault("candidates", max(10, 3 * diverse))
    failed = 0
    results = pipeline.stream(entries, batch_size=batch_size, seed=seed, **how)
    loaded = time.perf_counter()
    log.info(
        "%s on %s in %s, loaded in %.2f s", pipeline.source, pipeline.device, pipeline.dtype, loaded - began
    )
    console = Console(stderr=True)
    plain = len(entries) < 2 or not console.is_terminal or not log.isEnabledFor(logging.WARNING)
    with Progress(console=console, transient=True, disable=plain) as progress:
        task = progress.add_task("captioning", total=len(entries))
        for result in results:
            progress.advance(task)
            if isinstance(result, InputError):
                failed += 1
                progress.console.print(f"clearcap: {result}", markup=False, highlight=False, soft_wrap=True)
                continue
            captions = result.diverse(diverse) if diverse else [result.caption]
            if as_json:
                told = result.to_json() | ({"diverse": captions} if diverse else {})
                print(json_line(told), flush=True)
                continue
            for caption in captions:
                name = result.image.translate(dict.fromkeys(b"\t\n\r", "?"))  # a photo is one line
                print(caption if len(entries) == 1 else f"{name}\t{caption}", flush=True)
    seconds = time.perf_counter() - loaded
    log.info("%d photos in %.2f s, %.3f s each", len(entries), seconds, seconds / max(1, len(entries)))
    if failed:
        log.warning("%d of %d photos failed", failed, len(entries))
        raise typer.Exit(1)


def info(
    model: Annotated[
        str, typer.Argument(help="folder or hub name; default is the bundled model")
    ] = "default",
    every: Annotated[bool, typer.Option("--all", help="every setting, not one screen of them")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, with every setting")] = False,
) -> None:
    """Describe a model: its parts, their sizes, how it was made and how it draws captions."""
    from rich.console import Console
    from rich.table import Table

    from clearcap.captioner.onnx.runtime import count_parameters
    from clearcap.pipeline import CaptionPipeline

    pipeline = CaptionPipeline.from_pretrained(model)
    captioner, config = pipeline.captioner, pipeline.captioner.config
    parts = {
        "text space": captioner.text,
        "image encoder": captioner.vision,
        "denoiser": captioner.denoiser,
    }
    about = {
        "parameters": {name: count_parameters(part) for name, part in parts.items()},
        "text": config.text,
        "vision": config.vision,
        "denoiser": config.denoiser,
        "diffusion": config.diffusion,
        "sampling": config.sampling,
    }
    if as_json:
        print(json.dumps(about))
        return
    table = Table("part", "setting", "value", title=f"clearcap model: {model}", box=None)
    for part, settings in about.items():
        names = [name for name in settings if every or name in SUMMARY.get(part, settings)]
        for i, name in enumerate(names):
            shown = f"{settings[name]:,}" if part == "parameters" else str(settings[name])
            table.add_row(part if i == 0 else "", name, shown)
    Console().print(table)


def models(
    folder: Annotated[str, typer.Argument(help="look below this folder, too", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """List the models at hand: those that ship, those in the hub's cache, those below a folder."""
    from clearcap.captioner.folder import models_at_hand

    for name, kind, place in models_at_hand(folder):
        about = {"model": name, "found": kind, "folder": str(place)}
        print(json_line(about) if as_json else f"{name}\t{kind}\t{place}")
