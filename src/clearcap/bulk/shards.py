"""A folder of shards: their names, and what is there while a run writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from clearcap.bulk.formats import write_atomically
from clearcap.errors import InputError

JOURNALS = ".journal"
_RUNNING = "running.json"


def shard_name(shard: int, kind: str) -> str:
    """The name of a shard's file; ``kind`` is its suffix, without the dot."""
    return f"part-{shard:05d}.{kind}"


def begin_shards(folder: Path, run: dict[str, Any], overwrite: bool) -> None:
    """Make a folder ready for a run, and note in it that the run is under way.

    Args:
        folder: of the shards.
        run: what the run is, as JSON gives it back.
        overwrite: whether shards that are there go, unless they are those of the same run, which was stopped.

    Raises:
        InputError: the folder cannot be made, or written to.
    """
    running = folder / JOURNALS / _RUNNING
    if overwrite and not is_running(folder, run):
        for file in folder.glob("part-*"):
            file.unlink()
        shutil.rmtree(folder / JOURNALS, ignore_errors=True)
    try:
        running.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error
    write_atomically(running, lambda part: part.write_text(json.dumps(run)))


def is_running(folder: Path, run: dict[str, Any]) -> bool:
    """Whether a folder says that this run is under way."""
    running = folder / JOURNALS / _RUNNING
    return running.is_file() and json.loads(running.read_bytes()) == run


def end_shards(folder: Path, shards: int, kind: str) -> None:
    """Note that a run is over, which has written so many shards. Raises InputError where there is one more."""
    surplus = folder / shard_name(shards, kind)
    if surplus.exists():
        raise InputError(f"{surplus} is of a run over more photos; pass --overwrite to begin again")
    (folder / JOURNALS / _RUNNING).unlink(missing_ok=True)
