"""Karpathy's split files: dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from clearcap.data.images import PhotoFile
from clearcap.data.reading import member, read_json
from clearcap.data.records import Listed


def read_karpathy(
    path: Path, locate: Callable[[str, str], Path], name: Callable[[int | None, str], str]
) -> Iterator[tuple[str, Listed]]:
    """Split and photo of each entry of a file in the layout of Karpathy and Fei-Fei 2015, in its order.

    The file is one object whose `images` each hold `filename`, `split` and `sentences` with their `raw` text,
    and for COCO also `filepath` and `cocoid`. The split restval is train, as everybody trains on it.

    Args:
        path: the file.
        locate: from `filepath` ("" where there is none) and `filename` to the photo.
        name: from `cocoid` (None where there is none) and `filename` to the photo's id.

    Raises:
        InputError: not there, cut short, or another layout.
    """
    for position, image in enumerate(member(read_json(path), "images", list, str(path))):
        where = f"{path} images[{position}]"
        split = member(image, "split", str, where)
        sentences = member(image, "sentences", list, where)
        folder = member(image, "filepath", str, where) if "filepath" in image else ""
        file_name = member(image, "filename", str, where)
        number = member(image, "cocoid", int, where) if "cocoid" in image else None
        captions = [one.get("raw") if isinstance(one, dict) else one for one in sentences]
        photo = PhotoFile(locate(folder, file_name))
        yield (
            "train" if split == "restval" else split,
            Listed(name(number, file_name), photo, captions, where),
        )
