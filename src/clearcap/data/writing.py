"""Files that are whole under their own names, whenever the process is killed and wherever the disk is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearcap.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_FULL = {errno.ENOSPC: "No space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "File too large"}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write a file under, which it gives up for its own once it is written.

    What was there stays until then, and stays where writing fails.

    Raises:
        InputError: the disk is full.
    """
    fresh = path.with_name(f".new-{path.name}")  # the suffix stays: by it some libraries choose a format
    try:
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
    except Exception as fault:
        if is_full(fault):
            raise full(str(path), fault) from fault
        raise
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Another folder to write files to, which move to their own once all of them are written.

    Other files of that folder stay as they are.

    Raises:
        InputError: the disk is full, or no folder can be made there.
    """
    folder = Path(os.path.abspath(folder))
    fresh = folder.with_name(f".new-{folder.name}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder; name another")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        make_folder(fresh)
        yield fresh
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        for file in files:
            sync(file)
        for file in files:
            place = folder / file.relative_to(fresh)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    except Exception as fault:
        if is_full(fault):
            raise full(str(folder), fault) from fault
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        if is_full(fault):
            raise full(str(folder), fault) from fault
        raise InputError(f"{folder}: no folder can be made there ({fault.strerror}); name another") from fault


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; a kill at any moment leaves the old file or the new one. Raises InputError."""
    with whole_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, in the same way. Raises InputError."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def whole_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that a killed run wrote; a part of one at the end is cut off. Raises InputError."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        with whole_file(path) as fresh:
            fresh.write_bytes(b"".join(whole))
    return whole


def new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """An array in a file, to be filled in; its room is taken at once, for a map of a full disk ends the process.

    Raises:
        InputError: the disk is full.
    """
    import numpy as np

    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as fault:
        path.unlink(missing_ok=True)
        if is_full(fault):
            raise full(str(path), fault) from fault
        raise
    return array


def is_full(fault: BaseException) -> bool:
    """Whether something was raised because nothing more can be written; some libraries say so in words alone."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return fault.errno in _FULL
    return any(f"os error {number}" in str(fault) or words in str(fault) for number, words in _FULL.items())


def full(name: str, fault: BaseException) -> InputError:
    """The one line about it."""
    reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
    return InputError(f"{name} cannot be written ({reason}); make room, then run the same command again")


def sync(file: Path) -> None:
    """Wait until a file is on the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
