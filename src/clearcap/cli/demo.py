"""``clearcap demo``: the web page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = 8  # photos offered at most


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="folder or hub name; may be repeated, to compare; default is the bundled model"),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="folder of photos to offer as examples; the first eight")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 is every one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at; 0 takes a free one")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
    max_bytes: Annotated[int, typer.Option(help="bytes of an uploaded file")] = 20 * 2**20,
    queue: Annotated[int, typer.Option(help="requests that may wait")] = 32,
) -> None:
    """Serve a web page: watch captions come out of the noise, click words, rewrite, compare, caption a folder."""
    from clearcap.config import number
    from clearcap.errors import InputError

    if find_spec("gradio") is None:
        raise InputError("clearcap demo needs gradio, which is not installed; pip install 'clearcap[demo]'")
    from clearcap.demo.running import serve_page

    serve_page(
        model or ["default"],
        example_photos(examples),
        host=host,
        port=int(number("port", port, int, 0, 65535)),
        open_browser=open_browser,
        max_bytes=int(number("max_bytes", max_bytes, int, 1)),
        queue=int(number("queue", queue, int, 1)),
    )


def example_photos(folder: Path | None) -> list[Path]:
    """The first photos of a folder; without one the public-domain photo that matplotlib brings. Raises InputError."""
    from clearcap.data.paths import expand
    from clearcap.errors import InputError

    if folder is None:
        import matplotlib

        photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        return [photo] if photo.is_file() else []
    found = expand([str(folder)])[:EXAMPLES]
    for entry in found:
        if isinstance(entry, InputError):
            raise entry
    return [Path(str(entry)) for entry in found]
