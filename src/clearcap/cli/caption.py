"""``clearcap caption`` and ``clearcap info``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from clearcap.cli.options import Settings, sampling_settings


def caption(
    paths: Annotated[list[str], typer.Argument(help="photos, folders, globs or URLs", show_default=False)],
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

    from clearcap.data.paths import expand
    from clearcap.errors import InputError
    from clearcap.pipeline import CaptionPipeline

    entries = expand(paths)
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
    with Progress(console=Console(stderr=True), transient=True, disable=len(entries) < 2) as progress:
        task = progress.add_task("captioning", total=len(entries))
        for result in pipeline.stream(entries, batch_size=batch_size, seed=seed, **how):
            progress.advance(task)
            if isinstance(result, InputError):
                failed += 1
                progress.console.print(f"clearcap: {result}", markup=False, highlight=False, soft_wrap=True)
                continue
            captions = result.diverse(diverse) if diverse else [result.caption]
            if as_json:
                told = result.to_json() | ({"diverse": captions} if diverse else {})
                print(json.dumps(told, ensure_ascii=False), flush=True)
                continue
            for caption in captions:
                print(caption if len(entries) == 1 else f"{result.image}\t{caption}", flush=True)
    if failed:
        print(f"clearcap: {failed} of {len(entries)} photos failed", file=sys.stderr)
        raise typer.Exit(1)


def info(
    model: Annotated[
        str, typer.Argument(help="folder or hub name; default is the bundled model")
    ] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Describe a model: its parts, their sizes, how it was made and how it draws captions."""
    from rich.console import Console
    from rich.table import Table

    from clearcap.captioner.onnx.runtime import count_parameters
    from clearcap.pipeline import CaptionPipeline

    captioner = CaptionPipeline.from_pretrained(model).captioner
    config = captioner.config
    parts = {
        "text space": count_parameters(captioner.text),
        "image encoder": count_parameters(captioner.vision),
        "denoiser": count_parameters(captioner.denoiser),
    }
    about = {
        "parameters": parts,
        "text": config.text,
        "vision": config.vision,
        "denoiser": config.denoiser,
        "diffusion": config.diffusion,
        "sampling": config.sampling,
    }
    if as_json:
        print(json.dumps(about))
        return
    table = Table("part", "setting", "value", title=f"clearcap model: {model}")
    for part, settings in about.items():
        for i, (name, value) in enumerate(settings.items()):
            shown = f"{value:,}" if part == "parameters" else str(value)
            table.add_row(part if i == 0 else "", name, shown)
    Console().print(table)
