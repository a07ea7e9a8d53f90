"""``clearcap calibrate``: confidence that says how often a word is right, from photos that are new to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options


def calibrate(
    model: Annotated[str, typer.Argument(help="folder or hub name of a captioner", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option(
            help="corpus NAME:ROOT:SPLIT that the model did not learn from; several allowed",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="file to write; default confidence.json in the model's folder")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    seed: options.Seed = 0,
) -> None:
    """Calibrate a model's confidence on captioned photos kept apart; captioning with it then tells that confidence."""
    from clearcap.captioner.folder import find_folder
    from clearcap.cli.train import photos_of
    from clearcap.evaluation.confidence import calibrate as run
    from clearcap.pipeline import CaptionPipeline
    from clearcap.pipeline.calibration import FILE

    file = out or find_folder(model) / FILE
    pipeline = CaptionPipeline.from_pretrained(model, backend="fast")
    photos = photos_of(data)
    with options.shown_progress("captioning") as advance:
        found = run(pipeline, photos, batch_size=batch_size, seed=seed, progress=advance)
    found.calibration.save(file)
    print(
        f"{found.words:,} words of {len(photos):,} photos: calibration error {found.before:.4f} of their "
        f"probabilities, {found.after:.4f} of the confidence in {file}"
    )
