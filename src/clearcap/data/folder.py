"""A folder of one's own: photos and a captions.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearcap.data.images import PhotoFile
from clearcap.data.reading import as_kind, first_file, member, read_jsonl
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, choose_split, verified
from clearcap.errors import InputError

_LAYOUT = 'write one line per photo: {"file_name": "a.jpg", "captions": ["..."]}'


def read_folder(root: Path, split: str, strictness: Strictness, *, photos: str | None = None) -> Corpus:
    """A folder that says what it holds in captions.jsonl (or metadata.jsonl, as Hugging Face calls it).

    One JSON object a line: `file_name` (or `image`), `captions` (a list) or `caption` or `text` (one), and,
    if wanted, `image_id` or `id` (else the file name is the id) and `split`. Splits are told apart by that
    field, or by one file each, captions_train.jsonl and so on; without either the only split is "all". Where both
    kinds of file are there, captions.jsonl alone is "all".

    Args:
        root: the folder.
        split: "all" or a split the files name.
        strictness: what is expected and where problems go.
        photos: the folder below root the file names are relative to; found by looking when not given.
    """
    files = {path.stem.removeprefix("captions_"): path for path in sorted(root.glob("captions_*.jsonl"))}
    if split == "all" and (root / "captions.jsonl").is_file():
        files = {}  # the file without a name is the whole folder, whatever lies beside it
    if files:
        split = choose_split(f"the folder {root}", split, [*files, "all"])
        records = [(label, *line) for label, path in files.items() for line in read_jsonl(path)]
    else:
        path = first_file(root / "captions.jsonl", root / "metadata.jsonl") or root / "captions.jsonl"
        records = [
            (as_kind(record.get("split", ""), str, f"{where}: 'split'"), where, record)
            for where, record in list(read_jsonl(path, _LAYOUT))
        ]
        labels = dict.fromkeys(label for label, _, _ in records if label)
        split = choose_split(f"the folder {root}", split, [*labels, "all"])
    if photos is not None:
        base = root / photos
    else:
        base = _photo_folder(root, [_file_name(record, where) for _, where, record in records[:50]])
    others: dict[str, set[str]] = {}
    listed = []
    for label, where, record in records:
        if split in (label, "all"):
            image = PhotoFile(base / _file_name(record, where))
            listed.append(Listed(_id(record, where), image, _captions(record, where), where))
        elif label:
            others.setdefault(label, set()).add(_id(record, where))
    return verified("folder", split, listed, strictness, other_splits=others)


def _file_name(record: dict[str, Any], where: str) -> str:
    key = "image" if "image" in record and "file_name" not in record else "file_name"
    return member(record, key, str, where)


def _id(record: dict[str, Any], where: str) -> str:
    key = next((key for key in ("image_id", "id") if key in record), None)
    return str(member(record, key, (str, int), where)) if key else _file_name(record, where)


def _captions(record: dict[str, Any], where: str) -> object:
    key = next((key for key in ("captions", "caption", "text") if key in record), None)
    if key is None:
        raise InputError(f"{where} has no 'captions'; {_LAYOUT}")
    return record[key] if key == "captions" or isinstance(record[key], list) else [record[key]]


def _photo_folder(root: Path, names: list[str]) -> Path:
    """The folder that holds most of the named files: root, or one directly below it."""
    below = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return max([root, *below], key=lambda folder: sum((folder / name).is_file() for name in names))


FOLDER = CorpusReader(read_folder)
