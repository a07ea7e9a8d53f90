"""``clearcap bulk``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli.options import (
    Around,
    AsJson,
    Backend,
    Candidates,
    Dtype,
    ImageColumn,
    Length,
    Model,
    Prefix,
    Recursive,
    Seed,
    Settings,
    Steps,
    Suffix,
    sampling_settings,
)


def bulk(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(help="photos, folders, archives and tables, as clearcap caption takes them"),
    ],
    out: Annotated[Path, typer.Argument(help="folder of shards, which every node sees under the same path")],
    address: Annotated[
        str | None,
        typer.Option(help="of a Ray cluster, HOST:PORT or auto; default RAY_ADDRESS, or this machine alone"),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="workers that hold the model; default as many as there is room for")
    ] = None,
    cpus: Annotated[float, typer.Option(help="processors of each worker")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of each worker; 0.5: two share one")] = 0.0,
    model: Model = "default",
    steps: Steps = None,
    length: Length = None,
    candidates: Candidates = None,
    setting: Settings = None,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(help="photos at once; default 16 on GPUs, on CPUs as many as clearcap caption chooses"),
    ] = None,
    recursive: Recursive = True,
    image_column: ImageColumn = None,
    prefix: Prefix = "",
    suffix: Suffix = "",
    template: Around = "{caption}",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the shards that are there")] = False,
    shard_size: Annotated[int, typer.Option(help="photos a shard")] = 10_000,
    shard_format: Annotated[str, typer.Option(help="jsonl, csv or parquet")] = "parquet",
    device: Annotated[str | None, typer.Option(help="of each worker; default its GPU, if it has one")] = None,
    dtype: Dtype = None,
    backend: Backend = "fast",
    workers: Annotated[int | None, typer.Option(help="threads of each worker that decode photos")] = None,
    as_json: AsJson = False,
) -> None:
    """Caption photos by many machines, with Ray: the shards that clearcap caption --out FOLDER writes on one."""
    from clearcap.bulk.cluster import Job, Nodes, caption_on_cluster
    from clearcap.bulk.run import Output, Sampling
    from clearcap.bulk.sources import Sources
    from clearcap.bulk.wording import Wording
    from clearcap.cli.caption import write
    from clearcap.config import number
    from clearcap.registry import load_plugin

    nodes = Nodes(address, actors, cpus, gpus)
    if workers is not None:
        workers = number("workers", workers, int, 1)
    if batch_size is not None:
        batch_size = number("batch_size", batch_size, int, 1)
    elif gpus:
        batch_size = 16
    how = sampling_settings(setting, steps=steps, length=length, candidates=candidates)
    plugins = (context.parent.params.get("plugin") if context.parent else None) or []
    job = Job(
        model,
        Output(
            out,
            overwrite=overwrite,
            shard_size=shard_size,
            shard_format=shard_format,
            wording=Wording(prefix, suffix, template),
        ),
        Sampling(how, seed, batch_size, workers),
        {"device": device, "dtype": dtype, "backend": backend},
        image_column,
        tuple(partial(load_plugin, plugin) for plugin in plugins),
    )
    sources = Sources(paths, recursive=recursive, image_column=image_column)
    write(partial(caption_on_cluster, job, nodes), sources, as_json)
