"""The captions of an evaluation on disk, line by line, so that a killed run loses at most one batch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from clearcap.data.reading import as_kind, member
from clearcap.errors import InputError
from clearcap.evaluation.files import number


@dataclass(frozen=True)
class Captioned:
    """One photo's line.

    Attributes:
        photo: its id in the corpus.
        caption: the chosen caption.
        confidence: mean probability of its words.
        candidates: all captions drawn, in drawing order; empty where only one was.
    """

    photo: str
    caption: str
    confidence: float
    candidates: tuple[str, ...] = ()

    def to_line(self) -> str:
        """The line, with its end."""
        record: dict[str, object] = {
            "image_id": self.photo,
            "caption": self.caption,
            "confidence": self.confidence,
        }
        if self.candidates:
            record["candidates"] = list(self.candidates)
        return json.dumps(record, ensure_ascii=False) + "\n"


def read_journal(path: Path) -> list[Captioned]:
    """The whole lines of a journal; a last line that was cut short is left out.

    Raises:
        InputError: a line before the last is damaged, which no interruption explains.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was never finished
    kept = []
    for place, line in enumerate(lines, start=1):
        where = f"{path} line {place}"
        try:
            kept.append(_parse(line, where))
        except (InputError, ValueError) as error:
            if place == len(lines):
                break
            raise InputError(f"{where} is damaged ({error}); delete the folder and evaluate again") from error
    return kept


class Journal:
    """Appends captions; opens where the last whole batch ended."""

    def __init__(self, path: Path, photos: Sequence[str], batch: int) -> None:
        """Keep the whole batches that are there and drop the rest of the file.

        Whole batches, because a photo's numbers may differ in the last digit with the batch it is computed in,
        and a resumed evaluation shall equal an uninterrupted one byte for byte.

        Args:
            path: the file.
            photos: ids of the split, in the order they are captioned in.
            batch: photos a batch.

        Raises:
            InputError: the file holds captions of other photos.
        """
        found = read_journal(path)
        if [one.photo for one in found] != list(photos[: len(found)]):
            raise InputError(
                f"{path} holds captions of other photos; choose another folder or delete this one"
            )
        whole = len(found) if len(found) == len(photos) else len(found) - len(found) % batch
        self.done = found[:whole]
        size = sum(len(one.to_line().encode()) for one in self.done)
        self._file = open(path, "ab")  # noqa: SIM115  closed by __exit__
        self._file.truncate(size)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, captioned: Captioned) -> None:
        """Write one line at once."""
        self.done.append(captioned)
        self._file.write(captioned.to_line().encode())
        self._file.flush()


def whole_lines(path: Path | None) -> list[bytes]:
    """The whole lines of a file, none where there is no file; a last line that was cut short is taken off it."""
    if path is None or not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return whole.splitlines()


def _parse(line: bytes, where: str) -> Captioned:
    record = as_kind(json.loads(line), dict, where)
    return Captioned(
        photo=member(record, "image_id", str, where),
        caption=member(record, "caption", str, where),
        confidence=number(record, "confidence", where),
        candidates=tuple(as_kind(record.get("candidates", []), list, where)),
    )
