"""Text, JSON and CSV files, with errors that name the file and the place."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clearcap.errors import InputError

_KINDS = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "an object"}


def read_text(path: Path, remedy: str = "check the root folder") -> str:
    """A UTF-8 file (with or without byte order mark) as text. Raises InputError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {remedy}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {remedy}") from error


def read_json(path: Path, remedy: str = "check the root folder") -> Any:
    """The value in a JSON file. Raises InputError with line and character where it breaks off."""
    return _parse(read_text(path, remedy), str(path))


def read_jsonl(path: Path, remedy: str = "check the root folder") -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands ('FILE line N') and the object, for each line of JSON. Raises InputError."""
    for number, line in enumerate(read_text(path, remedy).split("\n"), start=1):
        if line.strip():
            where = f"{path} line {number}"
            yield where, as_kind(_parse(line, where), dict, where)


def read_lines(path: Path, remedy: str = "check the root folder") -> list[tuple[str, str]]:
    """Where it stands ('FILE line N') and the text, for each line that is not empty."""
    lines = enumerate(read_text(path, remedy).split("\n"), start=1)
    return [(f"{path} line {number}", line.strip()) for number, line in lines if line.strip()]


def read_csv(
    path: Path, header: Sequence[str], remedy: str = "check the root folder"
) -> Iterator[tuple[str, list[str]]]:
    """Where it stands ('FILE line N') and the fields, for each row after the header. Raises InputError."""
    rows = _rows(path, remedy)
    _, found = next(rows)
    if found != list(header):
        raise InputError(f"{path}: the first line is {','.join(found)!r}; it must be {','.join(header)!r}")
    yield from rows


def read_table(path: Path, remedy: str = "check the root folder") -> Iterator[tuple[str, dict[str, str]]]:
    """Where it stands ('FILE line N') and the fields by column, for each row below any header. Raises InputError."""
    rows = _rows(path, remedy)
    _, header = next(rows)
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"{path}: the first line names the column {twice[0]!r} twice; keep one")
    for where, row in rows:
        yield where, dict(zip(header, row, strict=True))


def _rows(path: Path, remedy: str) -> Iterator[tuple[str, list[str]]]:
    """Where it stands and the fields, for the header and each row; the header shows what parts the fields."""
    text = read_text(path, remedy)
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        yield str(path), header
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if row and len(row) != len(header):
                raise InputError(
                    f"{where} has {len(row)} fields instead of {len(header)}; quote fields with commas"
                )
            if row:
                yield where, row
    except csv.Error as error:
        raise InputError(
            f"{path} line {rows.line_num} is not CSV ({error}); fetch or write the file again"
        ) from error


def first_file(*paths: Path) -> Path | None:
    """The first of the paths that is a file."""
    return next(
        (path for path in paths if os.path.isfile(path)), None
    )  # a name that no disk can hold is none


def first_folder(root: Path, *names: str) -> Path:
    """The first of the named folders below root that is there, or else root itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def member(record: object, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`record[key]`, once it is known to be there and of this kind. Raises InputError."""
    fields = as_kind(record, dict, where)
    if key not in fields:
        raise InputError(
            f"{where} has no {key!r} (it has {', '.join(map(repr, fields)) or 'nothing'}); add it"
        )
    return as_kind(fields[key], kind, f"{where}: {key!r}")


def as_kind(value: object, kind: type | tuple[type, ...], where: str) -> Any:
    """`value`, once it is known to be of this kind (`float`: any number). Raises InputError."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    allowed = (*kinds, int) if float in kinds else kinds  # JSON writes 1.0 as 1
    if not isinstance(value, allowed) or isinstance(value, bool):
        wanted = " or ".join(_KINDS[one] for one in kinds)
        raise InputError(f"{where} is of type {type(value).__name__}; it must be {wanted}")
    return value


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        fault = "breaks off" if at_end else "is not JSON"
        raise InputError(
            f"{where} {fault} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos:,} of {len(text):,}: {error.msg}); fetch or write the file again"
        ) from error
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise InputError(f"{where} is not usable JSON ({error}); write the file again") from error
