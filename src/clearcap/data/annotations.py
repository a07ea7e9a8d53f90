"""COCO's annotation layout, which nocaps shares: images, and annotations that refer to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.data.reading import member, read_json
from clearcap.data.records import Report, several


@dataclass(frozen=True)
class AnnotationFile:
    """The image objects of such a file, in its order, and the captions of each image id."""

    path: Path
    images: list[dict[str, Any]]
    captions: dict[int, list[Any]]

    def ids(self) -> set[str]:
        """Every image id, as a corpus spells it."""
        return {id for _, id, _, _ in self}

    def __iter__(self) -> Iterator[tuple[str, str, str, list[Any]]]:
        """Where it stands, id, file name and captions of each image. Raises InputError."""
        for position, image in enumerate(self.images):
            where = f"{self.path} images[{position}]"
            id = member(image, "id", int, where)
            yield where, str(id), member(image, "file_name", str, where), self.captions.get(id, [])


def read_annotations(path: Path, report: Report, *, captioned: bool = True) -> AnnotationFile:
    """The file, with captions grouped by image.

    Raises:
        InputError: not there, cut short, another layout; through `report`: captions of unlisted images.
    """
    content = read_json(path)
    images = member(content, "images", list, str(path))
    captions: dict[int, list[Any]] = {}
    annotations = member(content, "annotations", list, str(path)) if captioned else []
    for position, annotation in enumerate(annotations):
        where = f"{path} annotations[{position}]"
        photo = member(annotation, "image_id", int, where)
        captions.setdefault(photo, []).append(member(annotation, "caption", str, where))
    listed = {member(image, "id", int, f"{path} images[{position}]") for position, image in enumerate(images)}
    if strays := [str(id) for id in captions if id not in listed]:
        report(
            f"{path}: captions of {several(strays, 'photo')} that 'images' does not list; complete 'images'"
        )
    return AnnotationFile(path, images, captions)
