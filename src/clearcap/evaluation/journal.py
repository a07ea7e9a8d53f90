"""Records of an evaluation on disk, a line of JSON each, so that a killed run loses at most one batch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from clearcap.data.reading import as_kind, member
from clearcap.errors import InputError


@dataclass(frozen=True)
class Entry:
    """What a line holds: the fields of a subclass."""

    @property
    def key(self) -> Hashable:
        """What tells the line of one evaluation from that of another in its place."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """The line as an object of JSON."""
        return dataclasses.asdict(self)

    def to_line(self) -> str:
        """The line, with its end."""
        return json.dumps(self.record(), ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, record: dict[str, Any], where: str) -> Any:
        """What `record` gave. Raises InputError."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: _tuples(member(record, name, object, where)) for name in names})


Kind = TypeVar("Kind", bound=Entry)


@dataclass(frozen=True)
class Captioned(Entry):
    """One photo's line.

    Attributes:
        photo: its id in the corpus.
        caption: the chosen caption.
        confidence: how sure the captioner is of it.
        candidates: all captions sampled, in their order; empty where only one was.
        words: each word and how sure the captioner is of it.
    """

    photo: str
    caption: str
    confidence: float
    candidates: tuple[str, ...] = ()
    words: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        """The photo's id."""
        return self.photo

    def record(self) -> dict[str, Any]:
        """The line as an object of JSON, candidates only where several were sampled."""
        found = {"image_id": self.photo, "caption": self.caption, "confidence": self.confidence}
        found |= {"candidates": list(self.candidates)} if self.candidates else {}
        return found | ({"words": [[word, sure] for word, sure in self.words]} if self.words else {})

    @classmethod
    def read(cls, record: dict[str, Any], where: str) -> Captioned:
        """What ``record`` gave. Raises InputError."""
        return cls(
            photo=member(record, "image_id", str, where),
            caption=member(record, "caption", str, where),
            confidence=float(member(record, "confidence", float, where)),
            candidates=tuple(as_kind(record.get("candidates", []), list, where)),
            words=tuple(
                (str(word), float(sure)) for word, sure in as_kind(record.get("words", []), list, where)
            ),
        )


class Journal(Generic[Kind]):
    """Appends records; opens where the last whole batch ended."""

    def __init__(self, path: Path | None, kind: type[Kind], keys: Sequence[Hashable], batch: int = 1) -> None:
        """Keep the whole batches that are there and drop the rest of the file.

        Whole batches, because a photo's figures may differ in the last digit with the batch it is computed in,
        and a resumed evaluation shall equal an uninterrupted one byte for byte.

        Args:
            path: the file; None keeps the records in memory only.
            kind: of the records.
            keys: those that the records will have, in their order.
            batch: records a batch.

        Raises:
            InputError: the file is damaged, or holds records of other keys.
        """
        found = read_journal(path, kind) if path is not None else []
        if [one.key for one in found] != list(keys[: len(found)]):
            raise InputError(
                f"{path} holds captions of other photos; choose another folder or delete this one"
            )
        whole = len(found) if len(found) == len(keys) else len(found) - len(found) % batch
        self.done = found[:whole]
        self.left = range(whole, len(keys))
        self._file = None if path is None else open(path, "ab")  # noqa: SIM115  closed by __exit__
        kept = sum(len(one.to_line().encode()) for one in self.done)
        if self._file is not None and self._file.tell() != kept:  # else the file's time stays what it was
            self._file.truncate(kept)

    def __enter__(self) -> Journal[Kind]:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()  # on a full disk, too, or Python would complain of it later

    def append(self, entry: Kind) -> None:
        """Write one line at once."""
        self.done.append(entry)
        if self._file is not None:
            self._file.write(entry.to_line().encode())
            self._file.flush()


def read_journal(path: Path, kind: type[Kind]) -> list[Kind]:
    """The whole lines of a journal; a last line that was cut short is left out.

    Raises:
        InputError: a line before the last is damaged, which no interruption explains.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was never finished
    kept: list[Kind] = []
    for place, line in enumerate(lines, start=1):
        where = f"{path} line {place}"
        try:
            kept.append(kind.read(as_kind(json.loads(line), dict, where), where))
        except (InputError, ValueError) as error:
            if place == len(lines):
                break
            raise InputError(f"{where} is damaged ({error}); delete the folder and evaluate again") from error
    return kept


def _tuples(value: Any) -> Any:
    """Lists, which JSON has, as the tuples they were."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
