"""What a run has done, a line of JSON a photo, so that a killed one loses at most the batch it was at."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from clearcap.bulk.formats import json_line, write_atomically
from clearcap.errors import InputError

_TITLE = "clearcap captions"
_SECONDS = 1.0  # between two waits for the disk: what a power cut may cost


class Journal:
    """A file of one line that says what the run is, and then a line a photo in the run's order.

    Whole batches are kept, because a photo's figures may differ in the last digit with the batch that it is in, and
    a run that goes on shall give the bytes of one that was not stopped. When everything is done, the lines are
    replaced by one that says what became of them.

    Attributes:
        run: all that rows depend on besides the photos, as the file says; None in a new one.
        finished: what became of a run that was finished.
        written: SHA-256 of the file of captions, where the run was stopped when only saying so was left.
    """

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        """Open a journal for this process alone.

        Args:
            path: of the file.
            patience: seconds to wait for another process that is writing it.

        Raises:
            InputError: it cannot be written, is something else, or is being written by another process.
        """
        self.path, self._patience = path, patience
        self._file = _open_alone(path, patience)
        self._synced = time.monotonic()
        try:
            self.run = read_run(path)
        except InputError:
            self._file.close()
            raise
        last = self._last()
        self.finished: dict[str, Any] | None = last.get("finished")
        self.written: str | None = last.get("written")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _last(self) -> dict[str, Any]:
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - 4096))  # longer than a line that says what became of a run
        line = self._file.read().rstrip(b"\n").rpartition(b"\n")[2]
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):  # part of a photo's line
            return {}

    def begin(self, run: dict[str, Any]) -> None:
        """Forget what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._write(json_line({"journal": _TITLE, "run": run}))
        self.run, self.finished, self.written = run, None, None

    def keep_whole(self, batch: int) -> int:
        """Cut off what is no whole batch; gives the number of photos that are left."""
        kept = 0
        self._file.seek(0)
        place = end = len(self._file.readline())
        for count, line in enumerate(self._file, start=1):
            end += len(line)
            if not line.endswith(b"\n") or line.startswith(b'{"written"'):
                break
            if count % batch == 0:
                kept, place = count, end
        self._file.seek(place)
        self._file.truncate()
        self.written = None
        return kept

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write a batch: ``{"image", "row"}`` or ``{"image", "error"}`` each."""
        self._write(b"".join(map(json_line, entries)))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        if time.monotonic() - self._synced > _SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def entries(self) -> Iterator[dict[str, Any]]:
        """What was appended, from the beginning."""
        with open(self.path, "rb") as file:
            next(file)
            yield from (entry for entry in map(json.loads, file) if "image" in entry)

    def note_written(self, digest: str) -> None:
        """Say that the file of captions is about to be moved to its place."""
        self._write(json_line({"written": digest}))
        os.fsync(self._file.fileno())
        self.written = digest

    def finish(self, outcome: dict[str, Any]) -> None:
        """Replace the photos' lines by one that says what became of them. Nothing can be appended until ``begin``."""
        whole = json_line({"journal": _TITLE, "run": self.run}) + json_line({"finished": outcome})
        write_atomically(self.path, lambda part: part.write_bytes(whole))
        self._file.close()  # it is no longer the file of that name
        self._file = _open_alone(self.path, self._patience)
        self.finished, self.written = outcome, None


def read_run(path: Path) -> dict[str, Any] | None:
    """What a journal's first line says the run is; None where there is no whole line.

    Raises:
        InputError: the file is something else.
    """
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        header = json.loads(line)
        if header["journal"] == _TITLE:
            return dict(header["run"])
    except (ValueError, LookupError, TypeError):
        pass
    raise InputError(f"{path} is no journal of clearcap's; move it away or choose another output")


def _open_alone(path: Path, patience: float) -> IO[bytes]:
    """The file for writing, for this process alone while it is open. Raises InputError."""
    until = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115  closed by Journal
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another output") from error
        if _locked(file) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
        file.close()  # another's, or replaced by another in the meantime
        if time.monotonic() >= until:
            raise InputError(f"{path} is being written by another run; wait for it or choose another output")
        time.sleep(0.1)


def _locked(file: IO[bytes]) -> bool:
    """Whether a file is this process's now, until it is closed."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows: two runs into one file are not told apart
    except OSError:
        return False
    return True


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting in which two runs differ, in words; nothing where they are the same."""
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_now, dict):
            if inner := difference(was, is_now):
                return inner
        elif was != is_now:
            return f"was begun with {name}={was!r}, not {is_now!r}"
    return ""
