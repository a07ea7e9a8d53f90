"""Stanford image paragraphs: one long description a photo."""

from __future__ import annotations

from pathlib import Path

from clearcap.data.images import PhotoFile
from clearcap.data.reading import as_kind, first_file, member, read_json
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, choose_split, verified
from clearcap.errors import InputError

SIZES = {"train": 14_575, "val": 2_487, "test": 2_489}  # Krause et al. 2017


def read_paragraphs(root: Path, split: str, strictness: Strictness) -> Corpus:
    """Stanford image paragraphs (Krause et al. 2017), of Visual Genome photos: train, val, test.

    Below root: paragraphs_v1.json (objects `image_id`, `paragraph`), {train,val,test}_split.json (lists of
    ids), photos ID.jpg in images, VG_100K, VG_100K_2 or root. A few photos of the published file have two
    paragraphs: both are kept.
    """
    split = choose_split("stanford-paragraphs", split, SIZES)
    ids = _split_ids(root, split)
    others = {
        other: set(_split_ids(root, other))
        for other in SIZES
        if other != split and (root / f"{other}_split.json").is_file()
    }
    path = root / "paragraphs_v1.json"
    paragraphs: dict[str, list[str]] = {}
    for position, record in enumerate(as_kind(read_json(path), list, str(path))):
        where = f"{path} [{position}]"
        id = str(member(record, "image_id", int, where))
        paragraphs.setdefault(id, []).append(member(record, "paragraph", str, where))
    listed = (
        Listed(id, PhotoFile(_photo_path(root, id)), paragraphs.get(id, []), f"{split}_split.json")
        for id in ids
    )
    return verified(
        "stanford-paragraphs", split, listed, strictness, official=SIZES[split], other_splits=others
    )


def _split_ids(root: Path, split: str) -> list[str]:
    path = root / f"{split}_split.json"
    ids = as_kind(read_json(path, "it comes with the paragraphs, put it there"), list, str(path))
    if strange := [id for id in ids if isinstance(id, bool) or not isinstance(id, (int, str))]:
        raise InputError(f"{path} holds {strange[0]!r}; it must be a list of photo ids")
    return [str(id) for id in ids]


def _photo_path(root: Path, id: str) -> Path:
    folders = [folder for name in ("images", "VG_100K", "VG_100K_2") if (folder := root / name).is_dir()]
    paths = [folder / f"{id}.jpg" for folder in [*folders, root]]
    return first_file(*paths) or paths[0]


STANFORD_PARAGRAPHS = CorpusReader(read_paragraphs, ("train", "val", "test"))
