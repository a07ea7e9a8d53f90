"""``clearcap remember``: captioned photos that help to caption others, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options


def remember(
    data: Annotated[
        list[str],
        typer.Argument(
            help="folders with captions, or corpora NAME:ROOT:SPLIT; several allowed", show_default=False
        ),
    ],
    model: options.Model = "default",
    out: Annotated[Path, typer.Option(help="folder to write the memory to")] = Path("memory"),
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
) -> None:
    """Remember captioned photos: caption --memory OUT and evaluate --memory OUT go by what was said of similar ones."""
    from clearcap.cli.train import photos_of
    from clearcap.data.writing import make_folder
    from clearcap.pipeline import CaptionPipeline
    from clearcap.pipeline.memory import remember as run

    photos = photos_of([f"folder:{one}:all" if Path(one).is_dir() else one for one in data])
    make_folder(out)  # sooner than the work
    pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked")  # graphs give no image tokens
    with options.shown_progress("remembering") as advance:
        memory = run(pipeline, photos, batch_size=batch_size, progress=advance)
    memory.save(out)
    captions = sum(map(len, memory.captions))
    print(f"{len(memory):,} photos with {captions:,} captions remembered in {out}")
