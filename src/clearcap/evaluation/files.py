"""Result and reference files of the layouts in use, read strictly, matched, and written whole or not at all."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from clearcap.data.paths import IMAGE_SUFFIXES
from clearcap.data.reading import as_kind, member, read_json, read_jsonl, read_table
from clearcap.data.records import several
from clearcap.data.writing import write_json
from clearcap.errors import InputError

Held = TypeVar("Held")
_COCO_NUMBER = re.compile(r"(?:COCO_\w+_)?(\d+)", re.ASCII)  # COCO_val2014_000000391895 and 000000391895


class ByPhoto(dict[str, Held]):
    """What a file holds of each photo under its id, and what else the file says of the photo.

    Attributes:
        names: photo -> what the file calls it besides, such as its file name.
        splits: photo -> its split, in files that hold several.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.splits: dict[str, str] = {}


def read_results(path: str | Path) -> ByPhoto[str]:
    """Candidates of a result file.

    Args:
        path: a JSON list of ``{"image_id": ..., "caption": ...}`` (the COCO result format), or a .jsonl or .csv file
            with one such object a line; ``file_name`` or ``image`` may name the photo.

    Returns:
        Photo id (as text, whether the file writes 285 or "285") -> candidate, in the file's order.

    Raises:
        InputError: missing, cut short, another layout, a photo captioned twice, a caption that is not text.
    """
    found: ByPhoto[str] = ByPhoto()
    twice: list[str] = []
    content = _content(Path(path))
    if not isinstance(content, (list, Iterator)):
        raise InputError(
            f"{path} is of type {type(content).__name__}; a result file is a list of "
            '{"image_id": ..., "caption": ...}'
        )
    for where, record in _rows(Path(path), content):
        photo = _photo_id(record, where)
        if photo in found:
            twice.append(f"{photo} ({where})")
        found[photo] = _one_caption(record, where)
        found.names[photo] = _file_names(record)
    if twice:
        raise InputError(
            f"{path}: {several(twice, 'photo')} captioned twice; keep one caption for each photo id"
        )
    if not found:
        raise InputError(f"{path} holds no caption; write one object for each photo")
    return found


def read_references(path: str | Path) -> ByPhoto[list[str]]:
    """References of an annotation file.

    Args:
        path: COCO annotations (``images`` and ``annotations``; ``images`` may be left out), Karpathy's JSON
            (``images`` with their ``sentences``), an object of a list of captions by photo id, or a JSON list, .jsonl,
            .csv or .tsv file of rows that hold the ``captions`` (a list) of a photo, or one ``caption`` or ``text``.

    Returns:
        Photo id (as text) -> references, photos in the order of ``images``.

    Raises:
        InputError: missing, cut short, another layout, an id given twice, a photo without references, a caption
            that is not text.
    """
    path = Path(path)
    content = _content(path)
    layout = {"images", "annotations"}
    if (
        isinstance(content, dict)
        and isinstance(next(iter(content.values()), 0), list)
        and not layout & content.keys()
    ):
        content = [{"image_id": photo, "captions": captions} for photo, captions in content.items()]
    if isinstance(content, Iterator) or (content and isinstance(content, list)):
        found = _from_rows(path, _rows(path, content))
    else:
        found = _from_annotations(path, as_kind(content, dict, str(path)))
    if bare := [photo for photo, captions in found.items() if not captions]:
        raise InputError(
            f"{path}: {several(bare, 'photo')} without a caption; add captions or take them off the list"
        )
    if not found:
        raise InputError(f"{path} holds no reference; write at least one caption for each photo")
    return found


def join(
    results: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    names: tuple[str, str] = ("the results", "the references"),
    subset: bool = False,
) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """The candidates and the references of the captioned photos, both under the ids of the references.

    Photos are matched by id where the references hold every id of the results. Else they are matched by file name,
    with folders or without, and by number: 000000000285.jpg, "000000000285" and 285 are one photo where an id or a
    file name of the references has that number, and no other photo has. Of references with several splits only
    those are asked for that the results caption photos of.

    Args:
        results: photo -> candidate.
        references: photo -> references.
        names: what error messages call the two.
        subset: whether photos without a candidate are left out instead of refused.

    Raises:
        InputError: a photo is unknown to the references, fits several of theirs, or lacks a candidate.
    """
    found = dict(results)
    if not results.keys() <= references.keys():
        fits = _fitting(results, references, lambda name, known: [name])
        if any(len(fit) != 1 for fit in fits.values()):
            fits = _fitting(results, references, _spellings)
        if unknown := [photo for photo, fit in fits.items() if not fit]:
            remedy = "caption photos of that split only, or give image_id or file_name as it does"
            named = [any(map(_is_file, _names(file, one))) for file in (results, references) for one in file]
            if named[0] and not any(named[len(results) :]):
                remedy = "give its photos (in COCO's layout its 'images') their file_name"
            raise InputError(
                f"{names[0]}: {several(unknown, 'photo')} not in {names[1]}, "
                f"which has {several([*references], 'photo')}; {remedy}"
            )
        chosen = Counter(next(iter(fit)) for fit in fits.values())
        if vague := [photo for photo, fit in fits.items() if len(fit) > 1 or chosen[next(iter(fit))] > 1]:
            raise InputError(
                f"{names[0]}: {several(vague, 'photo')} not matched one to one with those of {names[1]} by name or "
                "number; give each the image_id that it has there, once"
            )
        found = {next(iter(fits[photo])): caption for photo, caption in results.items()}
    if isinstance(references, ByPhoto) and references.splits:
        splits = {references.splits[photo] for photo in found}
        references = {
            photo: references[photo] for photo, split in references.splits.items() if split in splits
        }
    held = match(found, references, names=names, subset=subset)
    return {photo: found[photo] for photo in held}, held


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
        path, [{"image_id": id, "caption": text} for id, text in zip(ids, captions.values(), strict=True)]
    )


def write_references(references: Mapping[str, Sequence[str]], path: Path) -> None:
    """References in the COCO annotation format."""
    ids = coco_ids(references)
    pairs = [(id, text) for id, texts in zip(ids, references.values(), strict=True) for text in texts]
    annotations = [{"id": n, "image_id": id, "caption": text} for n, (id, text) in enumerate(pairs)]
    write_json(path, {"images": [{"id": id} for id in ids], "annotations": annotations})


def number(record: Mapping[str, Any], key: str, where: str) -> float:
    """`record[key]`, once it is known to be a number. Raises InputError."""
    return float(member(record, key, float, where))


def _names(photos: Mapping[str, Any], photo: str) -> list[str]:
    return [photo, *(photos.names.get(photo, []) if isinstance(photos, ByPhoto) else [])]


def _fitting(
    results: Mapping[str, str], references: Mapping[str, Any], spellings: Callable[[str, bool], Iterable[str]]
) -> dict[str, set[str]]:
    """For each photo of the results those of the references that a spelling of its names fits."""
    photos: defaultdict[str, set[str]] = defaultdict(set)
    for photo in references:
        for spelt in (spelt for name in _names(references, photo) for spelt in spellings(name, True)):
            photos[spelt].add(photo)
    return {
        photo: set().union(
            *(photos.get(spelt, ()) for name in _names(results, photo) for spelt in spellings(name, False))
        )
        for photo in results
    }


def _spellings(name: str, known: bool) -> Iterator[str]:
    """An id or a file's name as it is, without folders, and its number.

    Where the file is known to be the photo's, so are its name without suffix and its number as an id's: that 285.jpg is
    photo 285 is for the references to say.
    """
    yield name
    path, kinds = PurePath(name.replace("\\", "/")), ["id"]
    if _is_file(name):
        kinds = ["file", "id"] if known else ["file"]
        yield path.stem + path.suffix.lower()
        if known:
            yield path.stem
    if number := _COCO_NUMBER.fullmatch(path.stem):
        yield from (f"{kind} {number[1].lstrip('0')}" for kind in kinds)


def _is_file(name: str) -> bool:
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def _content(path: Path) -> Any:
    """What a JSON file holds; of a file of lines, where they stand and the object of each."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".csv", ".tsv", ".txt"):
        return (read_jsonl if suffix == ".jsonl" else read_table)(path, "check the path")
    return read_json(path, "check the path")


def _rows(path: Path, content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands and the object, for each of a JSON list or a file of lines."""
    if not isinstance(content, list):
        yield from content
        return
    for position, record in enumerate(content):
        where = f"{path} [{position}]"
        yield where, as_kind(record, dict, where)


def _from_rows(path: Path, rows: Iterable[tuple[str, dict[str, Any]]]) -> ByPhoto[list[str]]:
    """Rows of one photo with one caption each are its captions; a row with a list is all of them."""
    found: ByPhoto[list[str]] = ByPhoto()
    twice: list[str] = []
    whole: set[str] = set()
    for where, record in rows:
        photo = _photo_id(record, where)
        key = next((key for key in ("captions", "caption", "text") if key in record), "caption")
        kinds = (list,) if key == "captions" and path.suffix.lower() in (".json", ".jsonl") else (str, list)
        captions = member(record, key, kinds, where)
        if photo in found and (photo in whole or isinstance(captions, list)):
            twice.append(f"{photo} ({where})")
        if isinstance(captions, str):
            captions = [captions]
        else:
            whole.add(photo)
        texts = [as_kind(text, str, f"{where}: {key!r}[{n}]") for n, text in enumerate(captions)]
        found.setdefault(photo, []).extend(texts)
        found.names[photo] = _file_names(record)
    if twice:
        raise InputError(f"{path}: {several(twice, 'photo')} listed twice; keep each photo id once")
    return found


def _from_karpathy(path: Path, images: list[Any]) -> ByPhoto[list[str]]:
    """Karpathy's photos under COCO's number, or else under their file name."""
    found: ByPhoto[list[str]] = ByPhoto()
    for position, image in enumerate(images):
        where = f"{path} images[{position}]"
        sentences = member(image, "sentences", list, where)
        key = next((key for key in ("cocoid", "filename", "imgid") if key in image), "cocoid")
        photo = str(member(image, key, (int, str), where))
        if photo in found:
            raise InputError(f"{where}: photo {photo} is listed twice; keep each photo id once")
        found[photo] = [member(one, "raw", str, f"{where} sentences[{n}]") for n, one in enumerate(sentences)]
        other = ("filename",) if key == "cocoid" else ("filename", "imgid")
        found.names[photo] = [str(image[key]) for key in other if key in image]
        split = str(image.get("split", ""))
        found.splits[photo] = "train" if split == "restval" else split
    return found


def _from_annotations(path: Path, content: dict[str, Any]) -> ByPhoto[list[str]]:
    images = as_kind(content.get("images", []), list, f"{path}: 'images'")
    if (
        "annotations" not in content
        and images
        and "sentences" in as_kind(images[0], dict, f"{path} images[0]")
    ):
        return _from_karpathy(path, images)
    annotations = member(content, "annotations", list, str(path))
    found: ByPhoto[list[str]] = ByPhoto()
    for position, image in enumerate(images):
        where = f"{path} images[{position}]"
        photo = str(member(image, "id", (int, str), where))
        if photo in found:
            raise InputError(f"{where}: photo {photo} is listed twice; keep each photo id once")
        found[photo] = []
        found.names[photo] = _file_names(image)
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
    keys = ("image_id", "id", "file_name", "image", "photo")
    key = next((key for key in keys if key in record), "image_id")
    return str(member(record, key, (int, str), where))


def _one_caption(record: dict[str, Any], where: str) -> str:
    key = "text" if "text" in record and "caption" not in record else "caption"
    return str(member(record, key, str, where))


def _file_names(record: dict[str, Any]) -> list[str]:
    return [str(record[key]) for key in ("file_name", "image") if key in record]
