"""Files of captions: JSON lines, CSV and parquet, written whole or not at all, and read again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from clearcap.bulk.tables import pyarrow
from clearcap.data.writing import sync
from clearcap.errors import InputError

Row: TypeAlias = dict[str, Any]
ROW_GROUP = 10_000  # rows of a parquet file that are written, and can be read, together
_COLUMNS = ("image", "caption", "confidence")


@dataclass(frozen=True)
class Format:
    """How one kind of file is written and read.

    Attributes:
        write: makes a file of a file of the same kind (or none) and rows that follow it.
        names: the photos that a file has rows of.
    """

    write: Callable[[Path, Path | None, Iterable[Row]], None]
    names: Callable[[Path], Iterator[str]]


def format_of(path: Path) -> Format:
    """By a file's suffix. Raises InputError where there is none such."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(f"{path}: captions are written as {', '.join(FORMATS)}; choose one of these")
    if found is FORMATS[".parquet"]:
        pyarrow()  # said before the work where it is missing
    return found


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place, on the disk, and then moved there. Raises InputError."""
    part = part_of(path)
    try:
        write(part)
        sync(part)
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room, or choose another"
        ) from error


def part_of(path: Path) -> Path:
    """Where a file is written before it is moved to its place."""
    return path.with_name(f".{path.name}.part")


def digest(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_line(row: Row) -> bytes:
    """A row as one line of UTF-8; what is no Unicode, as in some file names, is escaped."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _write_jsonl(path: Path, base: Path | None, rows: Iterable[Row]) -> None:
    with open(path, "wb") as file:
        _copy(base, file)
        file.writelines(json_line(row) for row in rows)


def _write_csv(path: Path, base: Path | None, rows: Iterable[Row]) -> None:
    with open(path, "wb") as file:
        _copy(base, file)
        with io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            if base is None:
                writer.writerow(_COLUMNS)
            writer.writerows([row[name] for name in _COLUMNS] for row in rows)


def _copy(base: Path | None, file: Any) -> None:
    """What a file holds, with its last line ended."""
    if base is None:
        return
    last = b"\n"
    with open(base, "rb") as held:
        while chunk := held.read(2**20):
            file.write(chunk)
            last = chunk[-1:]
    if last != b"\n":
        file.write(b"\n")


def _write_parquet(path: Path, base: Path | None, rows: Iterable[Row]) -> None:
    arrow = pyarrow()
    schema = arrow.schema(
        [("image", arrow.string()), ("caption", arrow.string()), ("confidence", arrow.float64())]
    )
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        if base is not None:
            held = arrow.parquet.ParquetFile(base)
            if held.schema_arrow != schema:
                raise InputError(
                    f"{base} has other columns than image, caption and confidence; choose another file"
                )
            for place in range(held.num_row_groups):
                writer.write_table(held.read_row_group(place))
        coming = iter(rows)
        while group := list(islice(coming, ROW_GROUP)):
            columns = {name: [_text(row[name]) for row in group] for name in _COLUMNS}
            writer.write_table(arrow.table(columns, schema=schema), row_group_size=ROW_GROUP)


def _text(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _names_jsonl(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        try:
            yield from (str(json.loads(line)["image"]) for line in file if line.strip())
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{path} holds a line that is no caption of ours ({error}); choose another file"
            ) from error


def _names_csv(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != _COLUMNS:
            raise InputError(
                f"{path} has other columns than image, caption and confidence; choose another file"
            )
        yield from (row[0] for row in rows if row)


def _names_parquet(path: Path) -> Iterator[str]:
    arrow = pyarrow()
    try:
        for batch in arrow.parquet.ParquetFile(path).iter_batches(columns=["image"]):
            yield from batch.column(0).to_pylist()
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({error}); choose another file") from error


FORMATS = {
    ".jsonl": Format(_write_jsonl, _names_jsonl),
    ".csv": Format(_write_csv, _names_csv),
    ".parquet": Format(_write_parquet, _names_parquet),
}
