"""``clearcap label``: captions of photos by somebody else's captioner, to train one's own on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options

log = logging.getLogger("clearcap")


def label(
    paths: Annotated[
        list[str],
        typer.Argument(help="photos, folders and globs; @FILE and - are lists of them", show_default=False),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            help="hub name or folder of a captioner of transformers: BLIP, GIT, Florence-2, a chat model that sees",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="folder of captions for --data folder:OUT:all; a stopped run goes on")
    ] = Path("labelled"),
    prompt: Annotated[str, typer.Option(help="what the teacher is told; default what suits its kind")] = "",
    beams: Annotated[int, typer.Option(help="of its search; 1 is greedy")] = 3,
    max_tokens: Annotated[int, typer.Option(help="of a caption")] = 40,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...; default a GPU, if any")] = None,
) -> None:
    """Caption photos by a teacher from the hub, for clearcap train and finetune. A photo that fails is one line."""
    from clearcap.data.paths import expand
    from clearcap.errors import InputError
    from clearcap.training.labelling import Labelling
    from clearcap.training.labelling import label as run

    photos, done, failures = expand(paths), 0, 0

    def failed(fault: InputError) -> None:
        nonlocal failures
        failures += 1
        log.warning(fault)

    with options.shown_progress("labelling") as advance:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            advance(min(done, len(photos)), len(photos))

        how = Labelling(teacher, prompt, beams, max_tokens)
        captioned = run(
            photos, how, out, batch_size=batch_size, device=device, failed=failed, progress=progress
        )
    print(f"{captioned:,} photos captioned in {out}: --data folder:{out}:all")
    if failures:
        log.warning("%d of %d photos failed", failures, len(photos))
        raise typer.Exit(1)
