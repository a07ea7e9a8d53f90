"""``clearcap bench``: how fast, against what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearcap.cli import options
from clearcap.errors import InputError

if TYPE_CHECKING:
    from clearcap.bench.backends import Row, Took

app = typer.Typer(help="Measure speed, side by side in one run.", invoke_without_command=True)

Photo = Annotated[Path | None, typer.Option(help="photo; default is one that ships")]
Repeats = Annotated[int, typer.Option(help="counted runs")]
MOVED = {"rivals": "rivals", "ladic-base": "paper_size"}  # commands -> modules of the repository's benchmarks
ANY_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.callback()
def bench(
    context: typer.Context, model: options.Model = "default", photo: Photo = None, repeats: Repeats = 30
) -> None:
    """Measure speed, side by side in one run; without a command, ``latency``."""
    if context.invoked_subcommand is None:
        latency(model, photo, repeats)


@app.command()
def latency(model: options.Model = "default", photo: Photo = None, repeats: Repeats = 30) -> None:
    """One photo with a trained model, warm and in a fresh process."""
    from clearcap.bench.latency import caption_latency, sample_photo

    rows = caption_latency(model, photo or sample_photo(), repeats=repeats)
    options.show_table(
        ("one photo", "median ms", "least", "greatest"),
        ((row.name, f"{row.median:.1f}", f"{row.least:.1f}", f"{row.greatest:.1f}") for row in rows),
        title=f"model: {model}",
        words=("one photo",),
    )


@app.command()
def backends(
    model: options.Model = "default",
    photo: Photo = None,
    repeats: Repeats = 20,
    data: Annotated[
        str, typer.Option(help="corpus NAME:ROOT:SPLIT to caption; without one, only one photo is timed")
    ] = "",
    limit: options.Limit = None,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """One captioner in torch and ONNX, in float32, bf16 and int8: time, equal tokens, CIDEr-D."""
    import tempfile

    from clearcap.bench.backends import compare_backends, open_backends
    from clearcap.bench.latency import sample_photo
    from clearcap.data.corpus import open_spec

    photos = open_spec(data).photos[:limit] if data else ()
    with tempfile.TemporaryDirectory() as folder, options.shown_progress("captioning") as advance:
        advance(0, None, "writing graphs")
        opened = open_backends(model, Path(folder))
        advance(0, None, "captioning")
        rows = compare_backends(
            opened,
            photo or sample_photo(),
            photos,
            batch_size=batch_size,
            repeats=repeats,
            seed=seed,
            steps=steps,
            progress=advance,
        )
    if as_json:
        print(json.dumps({"photos": len(photos), "backends": [row.to_json() for row in rows]}))
    else:
        _print_backends(rows, model, len(photos), batch_size)


@app.command()
def throughput(
    photos: Annotated[list[str], typer.Argument(help="photos, folders or globs", show_default=False)],
    model: options.Model = "default",
    limit: options.Limit = 256,
    batch_size: Annotated[
        int | None, typer.Option(help="photos at once; default as clearcap caption --out, on a GPU 16")
    ] = None,
    workers: Annotated[int, typer.Option(help="threads that decode photos")] = 4,
    at_once: Annotated[
        int | None, typer.Option(help="batches at the same time; default one a core on a CPU")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...; default a GPU, if any")] = None,
    dtype: Annotated[str | None, typer.Option(help="of the weights: float32, bfloat16 ...")] = None,
    backend: options.Backend = "fast",
    setting: options.Settings = None,
    as_json: options.AsJson = False,
) -> None:
    """Photos a second: decoding, encoding, denoising and decoding words, each alone, and all together."""
    from itertools import islice

    from clearcap.bench.throughput import measure_throughput
    from clearcap.data.paths import each_entry
    from clearcap.pipeline import CaptionPipeline

    files = list(islice((one for one in each_entry(photos) if isinstance(one, str)), limit))
    pipeline = CaptionPipeline.from_pretrained(model, device=device, dtype=dtype, backend=backend)
    how = options.sampling_settings(setting)
    with options.shown_progress("timing") as advance:
        found = measure_throughput(
            pipeline,
            files,
            batch_size=batch_size,
            workers=workers,
            at_once=at_once,
            progress=advance,
            **how,
        )
    if as_json:
        print(json.dumps(found.to_json() | {"photos": len(files)}))
        return
    rows: list[list[str] | None] = [
        [stage.name, f"{stage.share:.1%}", f"{stage.cpu:.2f}", f"{stage.rate:.1f}"] for stage in found.stages
    ]
    rows += [None, ["all together", "", f"{found.cpu:.2f}", f"{found.rate:.1f}"]]
    options.show_table(
        ("stage, alone", "share of time", "CPU ms a photo", "photos/s"),
        rows,
        title=f"{model} on {pipeline.device}: {len(files):,} photos in batches of {found.batch_size}, "
        f"{found.at_once} at once, {found.cores} cores",
        caption=f"all together: {found.of_slowest:.0%} of the slowest stage's own limit, {found.of_sum:.0%} of what "
        f"stages that take turns on the same cores could do; {found.in_stages:.0%} of the processor time is in stages",
        words=("stage, alone",),
    )


def _took(time: Took) -> str:
    return f"{time.wall:.1f} ({time.cpu:.1f})"


def _print_backends(rows: list[Row], model: str, photos: int, batch_size: int) -> None:
    from clearcap.data.threads import threads

    scores = (f"a photo of {batch_size}", "equal tokens", "equal photos", "CIDEr-D", "loss, 95% interval")
    shown = []
    for row in rows:
        cells = [row.name, _took(row.alone)]
        if row.together is not None and row.tokens is not None and row.cider is not None and row.loss:
            lost, low, high = row.loss
            cells += [_took(row.together), f"{row.tokens:.3%}", f"{row.photos:,} of {photos:,}"]
            cells += [f"{row.cider:.4f}", f"{lost:+.4f} ({low:+.4f} to {high:+.4f})"]
        shown.append(cells)
    options.show_table(
        ("backend", "one photo", *(scores if photos else ())),
        shown,
        title=f"{model}: median ms, from pixels to tokens",
        caption=f"threads: {threads()}; photos captioned: {photos:,}; in turn, in one process; "
        "CPU time of all threads in brackets, which other jobs hardly change",
        words=("backend",),
    )


@app.command("rivals", hidden=True, context_settings=ANY_OPTIONS)
@app.command("ladic-base", hidden=True, context_settings=ANY_OPTIONS)
def moved(context: typer.Context) -> None:
    """Moved to the repository, as comparisons with other people's models and code are."""
    name = str(context.info_name)
    raise InputError(
        f"bench {name} has moved: run python -m benchmarks.{MOVED[name]} from a checkout of the repository"
    )
