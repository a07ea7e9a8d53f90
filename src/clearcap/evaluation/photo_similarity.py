"""How well captions fit their photos by a captioner's own scorer: a figure that needs no reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from clearcap.data.records import several
from clearcap.errors import InputError
from clearcap.metrics.scoring import Scores
from clearcap.pipeline import CaptionPipeline

NAME = "scorer similarity"
CHUNK = 64  # photos whose tokens are held at once


def photo_similarity(
    captions: Mapping[str, str], photos: Mapping[str, Path], pipeline: CaptionPipeline
) -> Scores:
    """Mean cosine of captions and photos, in -1 to 1, by a small contrastive model.

    It is no CLIPScore: another model's figures, comparable among captions of the same photos by the same scorer alone.

    Args:
        captions: photo -> caption.
        photos: photo -> file.
        pipeline: captioner whose encoder and scorer are used.

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
    return Scores({NAME: sum(found.values()) / max(1, len(found))}, {NAME: found})


def photo_files(photos: Iterable[str], names: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Path]:
    """The file of each photo.

    Args:
        photos: ids, which may be file names.
        names: what else a file of references calls them.
        folder: where they lie.

    Raises:
        InputError: one has no file there.
    """
    found, missing = {}, []
    for photo in photos:
        files = [folder / name for name in (photo, *names.get(photo, ()))]
        if file := next((file for file in files if file.is_file()), None):
            found[photo] = file
        else:
            missing.append(photo)
    if missing:
        raise InputError(
            f"{several(missing, 'photo')} without a file in {folder}; give their file_name in the references"
        )
    return found
