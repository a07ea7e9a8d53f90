"""``clearcap serve``: captions over HTTP."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Annotated

import typer

from clearcap.cli import options

EXTRA = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
LEVELS = {logging.ERROR: logging.ERROR, logging.WARNING: logging.INFO, logging.INFO: logging.DEBUG}
"""-q, neither, -v: of the command -> of the service, whose business is its log."""


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 is every one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at; 0 takes a free one")] = 8000,
    workers: Annotated[
        int, typer.Option(help="processes that share the port, each with its share of the cores")
    ] = 1,
    model: options.Model = "default",
    name: Annotated[
        list[str] | None,
        typer.Option(help="what requests may call the model; may be repeated; default is --model"),
    ] = None,
    clip: Annotated[str, typer.Option(help="folder or hub name of a CLIP, which similarity goes by")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; default a GPU if there is one")] = "",
    threads: Annotated[
        int, typer.Option(help="threads of each worker's forward passes; 0 shares out the cores")
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(help="photos of a forward pass at most; a CPU makes one a thread at a time")
    ] = 4,
    batch_wait: Annotated[
        float, typer.Option(help="milliseconds to wait for requests that are being read just then")
    ] = 5.0,
    queue: Annotated[int, typer.Option(help="photos that may wait in each worker; more get 429")] = 64,
    timeout: Annotated[float, typer.Option(help="seconds within which a request is answered")] = 30.0,
    upload_timeout: Annotated[
        float, typer.Option(help="seconds within which a request must have been sent")
    ] = 15.0,
    max_bytes: Annotated[int, typer.Option(help="bytes of a request, and of a photo behind a URL")] = 20
    * 2**20,
    max_memory: Annotated[
        int, typer.Option(help="bytes of all requests that are being read in a worker")
    ] = 256 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="pixels of a photo, before it is decoded")] = 50_000_000,
    max_images: Annotated[int, typer.Option(help="photos of a request")] = 16,
    max_calls: Annotated[
        int,
        typer.Option(help="rows of the denoiser that a photo may ask for: candidates x steps, guided twice"),
    ] = 2_000,
    max_connections: Annotated[int, typer.Option(help="connections open at once in each worker")] = 512,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="fetch photos from http and https URLs of public addresses")
    ] = False,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(help="network that URLs may lead to, too, such as 10.1.0.0/16; may be repeated"),
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            help="what Authorization: Bearer must say; better in the environment than in the list of processes",
            envvar="CLEARCAP_TOKEN",
            show_default=False,
        ),
    ] = "",
    shutdown_timeout: Annotated[
        int, typer.Option(help="seconds that a stopping worker gives the requests it took")
    ] = 60,
) -> None:
    """Serve captions over HTTP until a signal says stop."""
    from clearcap.errors import InputError
    from clearcap.service.settings import ServiceSettings

    settings = ServiceSettings(
        model=model,
        names=tuple(name or ()),
        clip=clip,
        device=device,
        plugins=tuple((context.parent.params if context.parent else {}).get("plugin") or ()),
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        batch_size=batch_size,
        batch_wait=batch_wait,
        queue=queue,
        timeout=timeout,
        upload_timeout=upload_timeout,
        max_bytes=max_bytes,
        max_memory=max_memory,
        max_pixels=max_pixels,
        max_images=max_images,
        max_calls=max_calls,
        max_connections=max_connections,
        allow_urls=allow_urls,
        allow_networks=tuple(allow_network or ()),
        token=token,
        shutdown_timeout=shutdown_timeout,
        log_level=LEVELS.get(logging.getLogger("clearcap").level, logging.INFO),
    )
    for package in EXTRA:
        if find_spec(package) is None:
            raise InputError(
                f"clearcap serve needs {package}, which is not installed; pip install 'clearcap[serve]'"
            )
    from clearcap.service.running import serve as run

    raise typer.Exit(run(settings))
