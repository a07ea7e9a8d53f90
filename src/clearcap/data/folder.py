"""A folder of one's own: photos, and their captions in a file of lines, a table, or a text beside each."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from clearcap.data.images import PhotoFile
from clearcap.data.paths import expand
from clearcap.data.reading import as_kind, first_file, member, read_jsonl, read_lines, read_table
from clearcap.data.records import (
    Corpus,
    CorpusReader,
    Listed,
    Report,
    Strictness,
    choose_split,
    several,
    verified,
)
from clearcap.errors import InputError

_LAYOUTS = (
    'write one line per photo there, {"file_name": "a.jpg", "captions": ["..."]}, or metadata.jsonl or '
    "metadata.csv with file_name and text, or a.txt beside each a.jpg; other corpora have their own reader (coco:DIR)"
)
_SPLITS = ("train", "dev", "val", "validation", "valid", "test")
_PROSE = ("readme", "license", "licence")  # text files that are no photo's captions


def read_folder(root: Path, split: str, strictness: Strictness, *, photos: str | None = None) -> Corpus:
    """A folder of photos, with their captions in one of these layouts; the first that is there counts.

    - captions.jsonl: one JSON object a line: `file_name` (or `image`), `captions` (a list) or `caption` or `text`
      (one), and, if wanted, `image_id` or `id` (else the file name is the id) and `split`.
    - metadata.jsonl or metadata.csv, as Hugging Face's imagefolder has them: the same fields, or columns; in the
      folder or in folders below it, whose photos they list.
    - a.txt (or a.jpg.txt) beside each a.jpg, in the folder and those below it: one caption a line.

    Rows of one photo with one caption each are its captions. Splits are told apart by the field `split`, by one
    file each, captions_train.jsonl and so on, or by folders called train, val or test; without any the only
    split is "all". Where both kinds of file are there, captions.jsonl alone is "all".

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
        lines = _unnamed(root, root / photos if photos else root, strictness.report)
        records = [
            (as_kind(record.get("split", ""), str, f"{where}: 'split'"), where, record)
            for where, record in lines
        ]
        labels = dict.fromkeys(label for label, _, _ in records if label)
        split = choose_split(f"the folder {root}", split, [*labels, "all"])
    if photos is not None:
        base = root / photos
    else:
        base = _photo_folder(root, [_file_name(record, where) for _, where, record in records[:50]])
    others: dict[str, set[str]] = {}
    listed = []
    alone: dict[tuple[str, Path], list[Any]] = {}  # captions of rows that have one each, by photo
    for label, where, record in records:
        if split in (label, "all"):
            id, path, captions = (
                _id(record, where),
                base / _file_name(record, where),
                _captions(record, where),
            )
            if "captions" not in record:
                if (id, path) in alone:
                    alone[id, path] += captions
                    continue
                alone[id, path] = captions
            listed.append(Listed(id, PhotoFile(path), captions, where))
        elif label:
            others.setdefault(label, set()).add(_id(record, where))
    if per_caption := [path.name for path, ids in Counter(path for _, path in alone).items() if ids > 1]:
        found = several(per_caption, "photo")
        strictness.report(f"{root}: {found} listed under several ids; give a photo one image_id, or none")
    return verified("folder", split, listed, strictness, other_splits=others)


def _unnamed(root: Path, base: Path, report: Report) -> list[tuple[str, dict[str, Any]]]:
    """Where it stands and the record, for each line of a folder without a file per split. Raises InputError."""
    if path := first_file(root / "captions.jsonl"):
        return list(read_jsonl(path))
    tables = [path for path in _below(root, ".csv", ".jsonl") if path.stem == "metadata"]
    tables = [path for path in tables if path.parent == root] or tables
    if both := [a.parent for a, b in pairwise(tables) if a.parent == b.parent]:
        raise InputError(f"{both[0]} holds metadata.csv and metadata.jsonl; keep one of them")
    if tables:
        return [line for path in tables for line in _of_table(path, root)]
    if records := _of_texts(base, report):
        return records
    raise InputError(f"{root / 'captions.jsonl'}: no such file; {_LAYOUTS}")


def _below(folder: Path, *suffixes: str) -> list[Path]:
    """The files with one of these suffixes in a folder and below it, hidden ones left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return [folder / path for path in sorted(found) if not any(part.startswith(".") for part in path.parts)]


def _of_table(path: Path, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a metadata file, with file names as seen from the root."""
    folder = path.parent.relative_to(root)
    is_csv = path.suffix.lower() == ".csv"
    for where, line in read_table(path) if is_csv else read_jsonl(path):
        record: dict[str, Any] = _of_cells(line) if is_csv else line
        if folder.parts:
            name = (folder / _file_name(record, where)).as_posix()
            record = {"split": _split_among(name), **record, "file_name": name}
        yield where, record


def _of_cells(row: dict[str, str]) -> dict[str, Any]:
    """A row of CSV as a record: a cell that is written as a list is one, and an empty cell is none."""
    record: dict[str, Any] = {name: cell for name, cell in row.items() if cell.strip()}
    for name in row.keys() & {"captions", "caption", "text"}:
        cell = row[name].strip()
        try:
            found = ast.literal_eval(cell) if cell.startswith("[") else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None  # a caption that begins with a bracket
        record[name] = found if isinstance(found, list) else cell
    if isinstance(record.get("captions"), str):
        record["caption"] = record.pop("captions")
    return record


def _of_texts(base: Path, report: Report) -> list[tuple[str, dict[str, Any]]]:
    """A record for each photo below the folder, with the lines of the text beside it; none where no photo has one."""
    texts = {str(path)[: -len(".txt")]: path for path in _below(base, ".txt")}
    records = []
    used: set[Path | None] = set()
    for photo in [Path(photo) for photo in expand([f"{base}/"]) if isinstance(photo, str)] if texts else []:
        name = photo.relative_to(base).as_posix()
        text = texts.get(str(photo.with_suffix(""))) or texts.get(str(photo))
        where = f"no {photo.stem}.txt beside it" if text is None else str(text)
        captions = [] if text is None else [line for _, line in read_lines(text)]
        records.append((where, {"file_name": name, "split": _split_among(name), "captions": captions}))
        used.add(text)
    if used <= {None}:
        return []
    if strays := [
        path.name for path in texts.values() if path not in used and path.stem.lower() not in _PROSE
    ]:
        report(f"{base}: {several(strays, 'text')} without a photo beside it; add the photo or take it away")
    return records


def _split_among(name: str) -> str:
    """The first of a file's folders that is called like a split."""
    return next((part for part in PurePosixPath(name).parts[:-1] if part in _SPLITS), "")


def _file_name(record: dict[str, Any], where: str) -> str:
    key = "image" if "image" in record and "file_name" not in record else "file_name"
    return member(record, key, str, where)


def _id(record: dict[str, Any], where: str) -> str:
    key = next((key for key in ("image_id", "id") if key in record), None)
    return str(member(record, key, (str, int), where)) if key else _file_name(record, where)


def _captions(record: dict[str, Any], where: str) -> Any:
    key = next((key for key in ("captions", "caption", "text") if key in record), None)
    if key is None:
        fields = ", ".join(map(repr, record))
        raise InputError(f"{where} has no 'captions' (it has {fields}); call them captions, caption or text")
    return record[key] if key == "captions" or isinstance(record[key], list) else [record[key]]


def _photo_folder(root: Path, names: list[str]) -> Path:
    """The folder that holds most of the named files: root, or one directly below it."""
    below = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return max([root, *below], key=lambda folder: sum((folder / name).is_file() for name in names))


FOLDER = CorpusReader(read_folder)
