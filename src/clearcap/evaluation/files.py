"""Result and reference files in the COCO format (or captions.jsonl), read strictly and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearcap.data.reading import as_kind, member, read_json, read_jsonl
from clearcap.data.records import several
from clearcap.errors import InputError


def read_results(path: str | Path) -> dict[str, str]:
    """Candidates of a result file.

    Args:
        path: a JSON list of ``{"image_id": ..., "caption": ...}`` (the COCO result format), or a .jsonl file with
            one such object a line.

    Returns:
        Photo id (as text, whether the file writes 285 or "285") -> candidate, in the file's order.

    Raises:
        InputError: missing, cut short, another layout, a photo captioned twice, a caption that is not text.
    """
    found: dict[str, str] = {}
    twice: list[str] = []
    for where, record in _results(Path(path)):
        photo = _photo_id(record, where)
        if photo in found:
            twice.append(f"{photo} ({where})")
        found[photo] = _one_caption(record, where)
    if twice:
        raise InputError(
            f"{path}: {several(twice, 'photo')} captioned twice; keep one caption for each photo id"
        )
    if not found:
        raise InputError(f"{path} holds no caption; write one object for each photo")
    return found


def read_references(path: str | Path) -> dict[str, list[str]]:
    """References of an annotation file.

    Args:
        path: COCO annotations (``images`` and ``annotations``; ``images`` may be left out), or a .jsonl file with
            ``captions`` (a list) or ``caption`` in each line.

    Returns:
        Photo id (as text) -> references, photos in the order of ``images``.

    Raises:
        InputError: missing, cut short, another layout, an id given twice, a photo without references, a caption
            that is not text.
    """
    path = Path(path)
    found = _from_lines(path) if path.suffix == ".jsonl" else _from_annotations(path)
    if bare := [photo for photo, captions in found.items() if not captions]:
        raise InputError(
            f"{path}: {several(bare, 'photo')} without a caption; add captions or take them off the list"
        )
    if not found:
        raise InputError(f"{path} holds no reference; write at least one caption for each photo")
    return found


def match(
    results: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    names: tuple[str, str] = ("the results", "the references"),
    subset: bool = False,
) -> dict[str, Sequence[str]]:
    """The references of the captioned photos, in the order of the references.

    Args:
        results: photo -> candidate.
        references: photo -> references.
        names: what error messages call the two.
        subset: whether photos without a candidate are left out instead of refused.

    Raises:
        InputError: a photo is unknown to the references, or lacks a candidate.
    """
    if unknown := [photo for photo in results if photo not in references]:
        raise InputError(
            f"{names[0]}: {several(unknown, 'photo')} not in {names[1]}; caption photos of that split only"
        )
    missing = [photo for photo in references if photo not in results]
    if missing and not subset:
        raise InputError(
            f"{names[0]}: {several(missing, 'photo')} of {names[1]} without a caption; "
            "caption every photo, or pass --subset to score the captioned ones only"
        )
    return {photo: captions for photo, captions in references.items() if photo in results}


def coco_ids(photos: Iterable[str]) -> list[str | int]:
    """Ids as COCO files write them: numbers, if every one of them is the plain spelling of a number."""
    photos = list(photos)
    plain = all(photo.isascii() and photo.isdigit() and str(int(photo)) == photo for photo in photos)
    return [int(photo) for photo in photos] if plain else [*photos]


def write_results(captions: Mapping[str, str], path: Path) -> None:
    """Candidates in the COCO result format."""
    ids = coco_ids(captions)
    write_json(
        [{"image_id": id, "caption": text} for id, text in zip(ids, captions.values(), strict=True)], path
    )


def write_references(references: Mapping[str, Sequence[str]], path: Path) -> None:
    """References in the COCO annotation format."""
    ids = coco_ids(references)
    pairs = [(id, text) for id, texts in zip(ids, references.values(), strict=True) for text in texts]
    annotations = [{"id": n, "image_id": id, "caption": text} for n, (id, text) in enumerate(pairs)]
    write_json({"images": [{"id": id} for id in ids], "annotations": annotations}, path)


def number(record: Mapping[str, Any], key: str, where: str) -> float:
    """`record[key]`, once it is known to be a number. Raises InputError."""
    return float(member(record, key, float, where))


def write_json(value: object, path: Path) -> None:
    """A JSON file that is either the old one or the new one, whenever the process is killed."""
    whole = path.with_name(path.name + ".part")
    whole.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(whole, path)


def _results(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands and the object, for each candidate of a file."""
    if path.suffix == ".jsonl":
        yield from read_jsonl(path, "check the path")
        return
    content = read_json(path, "check the path")
    if not isinstance(content, list):
        raise InputError(
            f"{path} is of type {type(content).__name__}; a result file is a list of "
            '{"image_id": ..., "caption": ...}'
        )
    for position, record in enumerate(content):
        where = f"{path} [{position}]"
        yield where, as_kind(record, dict, where)


def _from_lines(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    twice: list[str] = []
    for where, record in read_jsonl(path, "check the path"):
        photo = _photo_id(record, where)
        if photo in found:
            twice.append(f"{photo} ({where})")
        captions = record["captions"] if "captions" in record else [_one_caption(record, where)]
        listed = as_kind(captions, list, f"{where}: 'captions'")
        found[photo] = [as_kind(text, str, f"{where}: 'captions'[{n}]") for n, text in enumerate(listed)]
    if twice:
        raise InputError(f"{path}: {several(twice, 'photo')} listed twice; keep each photo id once")
    return found


def _from_annotations(path: Path) -> dict[str, list[str]]:
    content = as_kind(read_json(path, "check the path"), dict, str(path))
    annotations = member(content, "annotations", list, str(path))
    images = as_kind(content.get("images", []), list, f"{path}: 'images'")
    found: dict[str, list[str]] = {}
    for position, image in enumerate(images):
        where = f"{path} images[{position}]"
        photo = str(member(image, "id", (int, str), where))
        if photo in found:
            raise InputError(f"{where}: photo {photo} is listed twice; keep each photo id once")
        found[photo] = []
    seen: set[str] = set()
    for position, annotation in enumerate(annotations):
        where = f"{path} annotations[{position}]"
        photo = _photo_id(as_kind(annotation, dict, where), where)
        if images and photo not in found:
            raise InputError(f"{where}: photo {photo} is not listed in 'images'; complete 'images'")
        if "id" in annotation:
            name = str(member(annotation, "id", (int, str), where))
            if name in seen:
                raise InputError(f"{where}: annotation id {name} is given twice; number the annotations")
            seen.add(name)
        found.setdefault(photo, []).append(_one_caption(annotation, where))
    return found


def _photo_id(record: dict[str, Any], where: str) -> str:
    key = next((key for key in ("image_id", "id", "file_name", "image") if key in record), "image_id")
    return str(member(record, key, (int, str), where))


def _one_caption(record: dict[str, Any], where: str) -> str:
    return str(member(record, "caption", str, where))
