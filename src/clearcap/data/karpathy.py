"""Karpathy's split files: dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clearcap.data.reading import member, read_json


@dataclass(frozen=True)
class Entry:
    """One photo of such a file. `folder` and `coco_id` are given for COCO only."""

    split: str
    folder: str
    file_name: str
    coco_id: int | None
    captions: object
    where: str


def read_karpathy(path: Path) -> list[Entry]:
    """The photos of a file in the layout of Karpathy and Fei-Fei 2015, in its order.

    The file is one object whose `images` each hold `filename`, `split` and `sentences` with their `raw` text,
    and for COCO also `filepath` and `cocoid`. The split restval is train, as everybody trains on it.

    Raises:
        InputError: not there, cut short, or another layout.
    """
    entries = []
    for position, image in enumerate(member(read_json(path), "images", list, str(path))):
        where = f"{path} images[{position}]"
        split = member(image, "split", str, where)
        sentences = member(image, "sentences", list, where)
        entries.append(
            Entry(
                split="train" if split == "restval" else split,
                folder=member(image, "filepath", str, where) if "filepath" in image else "",
                file_name=member(image, "filename", str, where),
                coco_id=member(image, "cocoid", int, where) if "cocoid" in image else None,
                captions=[one.get("raw") if isinstance(one, dict) else one for one in sentences],
                where=where,
            )
        )
    return entries
