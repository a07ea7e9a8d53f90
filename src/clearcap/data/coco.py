"""COCO captions: Karpathy's splits and the official ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from clearcap.data.annotations import read_annotations
from clearcap.data.images import PhotoFile
from clearcap.data.karpathy import read_karpathy
from clearcap.data.reading import as_kind, first_file, member, read_json
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, choose_split, of_split, verified
from clearcap.errors import InputError

SIZES_KARPATHY = {"train": 113_287, "val": 5_000, "test": 5_000}  # restval merged into train
SIZES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}
_COCO_ID = re.compile(r"(\d{12})\.\w+$")  # COCO_val2014_000000391895.jpg


def read_coco_karpathy(root: Path, split: str, strictness: Strictness) -> Corpus:
    """COCO with the splits of Karpathy and Fei-Fei 2015: train (restval included), val, test.

    Below root, or in annotations, karpathy or caption_datasets below it: dataset_coco.json, or the lists
    coco_karpathy_{train,val,test}.json of objects `image`, `caption`, `image_id`. Photos in train2014 and
    val2014 below root or images, or in train2017 and val2017, which hold the same photos under other names.
    An id is COCO's number of the photo.
    """
    split = choose_split("coco-karpathy", split, SIZES_KARPATHY)
    folders = [root, root / "annotations", root / "karpathy", root / "caption_datasets"]
    locate = _photo_locator(root)
    whole = first_file(*(folder / "dataset_coco.json" for folder in folders))
    if whole is not None:
        listed, others = of_split(read_karpathy(whole, locate, _id), split)
    else:
        lists = (_from_list(folders, label, label == split, locate) for label in SIZES_KARPATHY)
        listed, others = of_split(chain.from_iterable(lists), split)
    official = SIZES_KARPATHY[split]
    return verified("coco-karpathy", split, listed, strictness, official=official, other_splits=others)


def read_coco(root: Path, split: str, strictness: Strictness) -> Corpus:
    """COCO with its official splits: train2014, val2014, train2017, val2017.

    Captions in captions_SPLIT.json below root or annotations; photos in SPLIT below root or images. "train"
    and "val" (or "dev") mean the year that is there. An id is COCO's number of the photo.

    Raises:
        InputError: the split has no such name, its annotations are not there, or ``strictness`` refuses them.
    """
    split = _official_split(root, split)
    path = _annotation_path(root, split)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it comes with COCO's annotations_trainval{split[-4:]}.zip")
    twin = {"train": "val", "val": "train"}[split[:-4]] + split[-4:]
    others = {}
    if (other := _annotation_path(root, twin)).is_file():
        others[twin] = read_annotations(other, strictness.report).ids()
    base = next((place for place in (root / split, root / "images" / split) if place.is_dir()), root / split)
    listed = (
        Listed(id, PhotoFile(base / file_name), captions, where)
        for where, id, file_name, captions in read_annotations(path, strictness.report)
    )
    return verified("coco", split, listed, strictness, official=SIZES[split], other_splits=others)


def _from_list(
    folders: list[Path], label: str, needed: bool, locate: Callable[[str, str], Path]
) -> Iterator[tuple[str, Listed]]:
    """The train list has an object per caption, val and test have an object per photo and its captions."""
    name = f"coco_karpathy_{label}.json"
    path = first_file(*(folder / name for folder in folders))
    if path is None:
        if needed:
            raise InputError(f"{folders[0]} has neither dataset_coco.json nor {name}; put one of them there")
        return
    photos: dict[str, tuple[list[Any], str]] = {}
    for position, record in enumerate(as_kind(read_json(path), list, str(path))):
        where = f"{path} [{position}]"
        caption = member(record, "caption", (str, list), where)
        image = member(record, "image", str, where)
        if isinstance(caption, list) and image in photos:
            raise InputError(f"{where}: photo {image} is listed twice; keep each photo once")
        captions, _ = photos.setdefault(image, ([], where))
        captions += caption if isinstance(caption, list) else [caption]
    for image, (captions, where) in photos.items():
        folder, _, file_name = image.rpartition("/")
        yield label, Listed(_id(None, file_name), PhotoFile(locate(folder, file_name)), captions, where)


def _id(number: int | None, file_name: str) -> str:
    """COCO's number of the photo, which its file name holds too."""
    if number is None and (match := _COCO_ID.search(file_name)):
        number = int(match[1])
    return file_name if number is None else str(number)


def _photo_locator(root: Path) -> Callable[[str, str], Path]:
    """From folder (train2014, val2014) and file name to the photo's path, in the layout that is there."""
    for base in (root, root / "images"):
        if (base / "train2014").is_dir() or (base / "val2014").is_dir():
            return lambda folder, file_name: base / folder / file_name
        if (base / "train2017").is_dir() or (base / "val2017").is_dir():
            in_val = {path.name for path in (base / "val2017").glob("*.jpg")}
            return lambda _, file_name: _path_of_2017(base, file_name, in_val)
    flat = root / "images" if (root / "images").is_dir() else root
    return lambda folder, file_name: flat / file_name


def _path_of_2017(base: Path, file_name: str, in_val: set[str]) -> Path:
    name = file_name.rpartition("_")[2]  # COCO_val2014_000000391895.jpg is 000000391895.jpg in 2017
    return base / ("val2017" if name in in_val else "train2017") / name


def _official_split(root: Path, split: str) -> str:
    if split not in ("train", "val", "dev", "validation"):
        return choose_split("coco", split, SIZES)
    part = "train" if split == "train" else "val"
    there = [year for year in ("2014", "2017") if _annotation_path(root, part + year).is_file()]
    if len(there) == 1:
        return part + there[0]
    found = "both years" if there else f"neither captions_{part}2014.json nor captions_{part}2017.json"
    raise InputError(f"{root} has {found}; name the split {part}2014 or {part}2017")


def _annotation_path(root: Path, split: str) -> Path:
    name = f"captions_{split}.json"
    return first_file(root / name) or root / "annotations" / name


COCO_KARPATHY = CorpusReader(read_coco_karpathy, ("train", "val", "test"))
COCO = CorpusReader(read_coco, ("train", "val"))
