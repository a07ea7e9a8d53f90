"""How well captions fit their photos by a captioner's own scorer: a figure that needs no reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from clearcap.data.paths import IMAGE_SUFFIXES
from clearcap.errors import InputError
from clearcap.evaluation.files import ByPhoto, join
from clearcap.evaluation.scores import Scored
from clearcap.metrics.scoring import Scores
from clearcap.metrics.significance import intervals
from clearcap.pipeline import CaptionPipeline

NAME = "scorer similarity"
CHUNK = 64  # photos whose tokens are held at once


def photo_similarity(
    captions: Mapping[str, str], photos: Mapping[str, Path], pipeline: CaptionPipeline, *, seed: int = 0
) -> Scored:
    """Mean cosine of captions and photos, in -1 to 1, by a small contrastive model.

    It is no CLIPScore: another model's figures, comparable among captions of the same photos by the same scorer alone.

    Args:
        captions: photo -> caption.
        photos: photo -> file.
        pipeline: captioner whose encoder and scorer are used.
        seed: of the bootstrap that its interval is of.

    Raises:
        InputError: the captioner has no scorer, or a photo cannot be read.
    """
    scorer = pipeline.scorer
    if scorer is None:
        raise InputError("this model has no scorer; train one with clearcap train-scorer and pass its folder")
    found: dict[str | int, float] = {}
    left = iter(captions)
    while group := list(islice(left, CHUNK)):
        tokens = pipeline.encode_all(photos[photo] for photo in group)
        for photo, image in zip(group, tokens, strict=True):
            found[photo] = float(scorer.similarity(image, [captions[photo]])[0])
    scores = Scores({NAME: sum(found.values()) / max(1, len(found))}, {NAME: found})
    interval = intervals(scores, seed=seed)[NAME]
    return Scored(scores, {NAME: (interval.low, interval.high)}, {})


def photo_files(references: ByPhoto[list[str]], photos: Iterable[str], folder: Path) -> dict[str, Path]:
    """The file of each photo, found by id, by what the references call it besides, or by number (`join`).

    Args:
        references: of a file.
        photos: those of them that are wanted.
        folder: where the files lie, or in folders below it.

    Raises:
        InputError: a photo has no file there, or several fit.
    """
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    files: dict[str, list[str]] = {path.relative_to(folder).as_posix(): [] for path in sorted(paths)}
    wanted: ByPhoto[str] = ByPhoto()
    for photo in photos:
        wanted[photo] = photo
        wanted.names[photo] = references.names.get(photo, [])
    found, _ = join(wanted, files, names=("the references", str(folder)), subset=True)
    return {photo: folder / file for file, photo in found.items()}
