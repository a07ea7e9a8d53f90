"""``clearcap caption``, ``clearcap info`` and ``clearcap models``."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearcap.cli.options import (
    Around,
    Backend,
    Candidates,
    Dtype,
    ImageColumn,
    Length,
    MemoryFolder,
    Neighbours,
    Prefix,
    Recursive,
    Seed,
    Select,
    Settings,
    Steps,
    Suffix,
    open_memory,
    sampling_settings,
)

if TYPE_CHECKING:
    from clearcap.bulk.file import Tally
    from clearcap.bulk.run import Summary
    from clearcap.bulk.sources import Sources
    from clearcap.bulk.wording import Wording
    from clearcap.errors import InputError
    from clearcap.pipeline import CaptionResult

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
            help="photos, folders, globs, URLs, tar and zip files, WebDataset shards, parquet and Arrow files; "
            "@FILE and - (standard input) are lists of them",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="folder or hub name; default is the bundled model")] = "default",
    steps: Steps = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance scale")] = None,
    length: Length = None,
    candidates: Candidates = None,
    select: Select = None,
    utility: Annotated[
        str | None, typer.Option(help="what mbr compares candidates by: bleu or cider")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="folder or hub name of a CLIP or scorer, which similarity goes by")
    ] = None,
    memory: MemoryFolder = None,
    neighbours: Neighbours = 25,
    diverse: Annotated[
        int, typer.Option(help="captions to print of each photo, unlike each other; 0: the chosen one")
    ] = 0,
    refine: Annotated[bool | None, typer.Option(help="Back&Refine: redo the least certain words")] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, renoise, ddpm, dpm-solver or plain")] = None,
    setting: Settings = None,
    seed: Seed = 0,
    batch_size: Annotated[
        str, typer.Option(help="photos at once; auto: with --out what suits the device, else 16")
    ] = "auto",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="one JSON object a line on standard output; with --out, the summary"),
    ] = False,
    recursive: Recursive = True,
    image_column: ImageColumn = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="write a .jsonl, .csv or .parquet file, or a folder of shards; a stopped run goes on"
        ),
    ] = None,
    sidecar: Annotated[
        list[str] | None, typer.Option(help="write txt or json beside each photo; may be repeated")
    ] = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="write description and alternative text as XMP beside each photo")
    ] = False,
    prefix: Prefix = "",
    suffix: Suffix = "",
    template: Around = "{caption}",
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="keep the rows that --out has, add those of other photos")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what --out or sidecars hold")
    ] = False,
    shard_size: Annotated[int, typer.Option(help="photos a shard, where --out is a folder")] = 10_000,
    shard_format: Annotated[
        str, typer.Option(help="jsonl, csv or parquet, where --out is a folder")
    ] = "parquet",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default a GPU, if any")] = None,
    dtype: Dtype = None,
    backend: Backend = "fast",
    workers: Annotated[
        int | None, typer.Option(help="threads that decode photos; default four, with --out one a core")
    ] = None,
) -> None:
    """Caption photos. A photo that cannot be read is one line on standard error; the others still finish."""
    from clearcap.bulk.sources import Sources
    from clearcap.bulk.wording import Wording
    from clearcap.config import number
    from clearcap.errors import InputError
    from clearcap.pipeline import CaptionPipeline

    diverse = number("--diverse", diverse, int, 0)
    wording = Wording(prefix, suffix, template)
    kinds = (*(sidecar or ()), *(["xmp"] if xmp else []))
    output = None
    if out is not None or kinds:
        from clearcap.bulk.run import Output

        output = Output(
            out, kinds, overwrite, skip_existing, shard_size, shard_format, wording=wording, diverse=diverse
        )
    elif overwrite or skip_existing:
        raise InputError("--overwrite and --skip-existing are about files; pass --out, --sidecar or --xmp")
    at_once = None if batch_size == "auto" else number("batch_size", _whole(batch_size), int, 1)
    if workers is not None:
        workers = number("workers", workers, int, 1)
    sources = Sources(paths, recursive=recursive, image_column=image_column)
    began = time.perf_counter()
    pipeline = CaptionPipeline.from_pretrained(
        model, device=device, dtype=dtype, backend=backend, clip=clip, memory=open_memory(memory, neighbours)
    )
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
    log.info(
        "%s on %s in %s, loaded in %.2f s",
        pipeline.source,
        pipeline.device,
        pipeline.dtype,
        time.perf_counter() - began,
    )
    if output is not None:
        from clearcap.bulk.run import Run, Sampling

        write(Run(pipeline, output, Sampling(how, seed, at_once, workers), model), sources, as_json)
        return
    results = pipeline.stream(
        (item.photo for item in sources), batch_size=at_once or 16, seed=seed, workers=workers or 4, **how
    )
    print_captions(results, sources, wording, diverse, as_json)


def _whole(text: str) -> Any:
    """A whole number; other text as it is."""
    try:
        return int(text)
    except ValueError:
        return text


def print_captions(
    results: Iterator[CaptionResult | InputError],
    sources: Sources,
    wording: Wording,
    diverse: int,
    as_json: bool,
) -> None:
    """Captions on standard output, one a line; a single photo's without its name."""
    from rich.console import Console
    from rich.progress import Progress

    from clearcap.errors import InputError

    began = time.perf_counter()
    first = list(islice(results, 2))
    single = len(first) < 2
    photos = failed = 0
    console = Console(stderr=True)
    plain = single or not console.is_terminal or not log.isEnabledFor(logging.WARNING)
    with Progress(console=console, transient=True, disable=plain) as progress:
        task = progress.add_task("captioning", total=None)
        if not plain:
            _count(sources, lambda total: progress.update(task, total=total))
        for result in chain(first, results):
            photos += 1
            progress.advance(task)
            if isinstance(result, InputError):
                failed += 1
                progress.console.print(f"clearcap: {result}", markup=False, highlight=False, soft_wrap=True)
                continue
            captions = [
                wording(text, result.image, result.confidence)
                for text in (result.diverse(diverse) if diverse else [result.caption])
            ]
            if as_json:
                told = result.to_json() | ({"diverse": captions} if diverse else {"caption": captions[0]})
                print(json_line(told), flush=True)
                continue
            for caption in captions:
                name = result.image.translate(dict.fromkeys(b"\t\n\r", "?"))  # a photo is one line
                print(caption if single else f"{name}\t{caption}", flush=True)
    seconds = time.perf_counter() - began
    log.info("%d photos in %.2f s, %.3f s each", photos, seconds, seconds / max(1, photos))
    if failed:
        log.warning("%d of %d photos failed", failed, photos)
        raise typer.Exit(1)


def write(run: Callable[[Sources, Any], Summary], sources: Sources, as_json: bool) -> None:
    """Captions into files, with a bar on standard error and a summary at the end."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[failures]}"),
    )
    plain = not console.is_terminal or not log.isEnabledFor(logging.WARNING)
    with progress.Progress(*columns, console=console, transient=True, disable=plain) as bar:
        task = bar.add_task("captioning", total=None, rate="", failures="")
        if not plain:
            _count(sources, lambda total: bar.update(task, total=total))
        began = time.perf_counter()

        def told(tally: Tally, fault: InputError | None) -> None:
            if fault is not None:
                bar.console.print(f"clearcap: {fault}", markup=False, highlight=False, soft_wrap=True)
            if plain:
                return
            rate = (tally.photos - tally.found) / max(time.perf_counter() - began, 1e-9)
            failures = f"{tally.failures:,} failed" if tally.failures else ""
            bar.update(task, completed=tally.photos, rate=f"{rate:.1f} photos/s", failures=failures)

        summary = run(sources, told)
    if as_json:
        print(json.dumps(asdict(summary) | {"photos_per_second": round(summary.rate, 3)}))
    elif log.isEnabledFor(logging.WARNING):
        found = f", {summary.found:,} of them found done" if summary.found else ""
        print(
            f"clearcap: {summary.photos:,} photos{found}: {summary.captions:,} captions, "
            f"{summary.failures:,} failures, {summary.seconds:.1f} s, {summary.rate:.1f} photos/s",
            file=sys.stderr,
        )
    if summary.failures:
        raise typer.Exit(1)


def _count(sources: Sources, tell: Callable[[int], None]) -> None:
    """Tell how many photos there are, from a thread, so that the first need not wait for the last one's name."""

    def count() -> None:
        found = sources.count()
        if found is not None:
            tell(found)

    threading.Thread(target=count, daemon=True, name="count").start()


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
