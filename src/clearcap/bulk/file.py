"""One file of captions, by as many runs as it takes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from clearcap.bulk.formats import Row, digest, format_of, json_line, part_of, write_atomically
from clearcap.bulk.journal import Journal, difference
from clearcap.bulk.sources import Item
from clearcap.data.writing import sync
from clearcap.errors import InputError

Caption: TypeAlias = Callable[[Iterable[Item]], Iterator[Row | InputError]]
"""Items, which are used up batch by batch, to a row or a fault for each."""


@dataclass
class Tally:
    """How far a run is.

    Attributes:
        photos: seen, whatever became of them.
        captions: rows written, by this run and those that it goes on with.
        failures: photos without a row.
        found: photos that an earlier run had done.
        told: called when anything of this changes.
    """

    photos: int = 0
    captions: int = 0
    failures: int = 0
    found: int = 0
    told: Callable[[Tally, InputError | None], None] = field(default=lambda tally, fault: None, repr=False)

    def add(
        self, photos: int, failures: int, *, found: bool = False, fault: InputError | None = None
    ) -> None:
        """Count some more."""
        self.photos += photos
        self.failures += failures
        self.captions += photos - failures
        self.found += photos if found else 0
        self.told(self, fault)

    def join(self, other: Tally, faults: Sequence[InputError]) -> None:
        """Count what another run has counted, and tell of its faults."""
        self.photos += other.photos
        self.captions += other.captions
        self.failures += other.failures
        self.found += other.found
        for fault in faults:
            self.told(self, fault)
        self.told(self, None)


def write_captions(
    path: Path,
    journal: Path,
    run: dict[str, Any],
    items: Iterator[Item],
    caption: Caption,
    tally: Tally,
    *,
    batch: int,
    overwrite: bool = False,
    skip_existing: bool = False,
    patience: float = 0.0,
) -> None:
    """Caption photos into a file that appears when it is whole.

    Args:
        path: the file; its suffix says of which kind.
        journal: where the run keeps what it has done; one that was stopped goes on from there.
        run: all that rows depend on besides the photos.
        items: the photos.
        caption: what captions them, a batch at a time.
        tally: counts them.
        batch: photos a batch.
        overwrite: whether a file that is there is replaced.
        skip_existing: whether the rows of a file that is there are kept, and photos without one added.
        patience: seconds to wait for another process that is writing the same file.

    Raises:
        InputError: the file, or a run that was stopped, is in the way; or the photos are not those of that run.
    """
    kind = format_of(path)
    with Journal(journal, patience) as record:
        there = digest(path)
        if record.written and there == record.written:  # stopped between moving the file and saying so
            record.finish(_outcome(record, there))
            overwrite = overwrite and bool(difference(record.run or {}, run | {"after": ""}))
        base = path if skip_existing and there else None
        if not _goes_on(record, path, there, run, overwrite, skip_existing):
            record.begin(run | {"after": there if base else ""})
        if record.finished is not None:
            _found(record.finished, items, path, tally)
            return
        if base is not None:
            names = set(kind.names(base))
            items = (item for item in items if item.name not in names)
        done = record.keep_whole(batch)
        _skip(record, items, done, path, tally)
        _caption_rest(record, items, caption, tally, batch)
        part = part_of(path)
        try:
            kind.write(part, base, (entry["row"] for entry in record.entries() if "row" in entry))
            sync(part)
            record.note_written(digest(part))
            _write_errors(path, record)
            part.replace(path)
        except OSError as error:
            fault = error.strerror or error
            raise InputError(
                f"{path} cannot be written ({fault}); make room and run the command again"
            ) from error
        record.finish(_outcome(record, str(record.written)))


def _goes_on(
    record: Journal, path: Path, there: str, run: dict[str, Any], overwrite: bool, skip_existing: bool
) -> bool:
    """Whether what the journal says is kept; else the run begins anew. Raises InputError where neither will do."""
    exists = InputError(
        f"{path} is there already; pass --skip-existing to add photos that it has no row of, or --overwrite"
    )
    if record.run is None:
        if there and not (overwrite or skip_existing):
            raise exists
        return False
    if record.finished is not None:
        if overwrite or skip_existing or not there:
            return False
        if there != record.finished["sha256"]:
            raise exists
    unlike = difference(record.run, run | {"after": there if skip_existing else ""})
    if unlike and not overwrite:
        raise InputError(f"{path} {unlike}; pass --overwrite to begin again")
    return not unlike


def _outcome(record: Journal, sha256: str) -> dict[str, Any]:
    names, photos, failures = hashlib.sha256(), 0, 0
    for entry in record.entries():
        names.update(json_line({"image": entry["image"]}))
        photos += 1
        failures += "error" in entry
    return {"photos": photos, "failures": failures, "names": names.hexdigest(), "sha256": sha256}


def _found(finished: dict[str, Any], items: Iterator[Item], path: Path, tally: Tally) -> None:
    names, photos = hashlib.sha256(), 0
    for item in islice(items, finished["photos"]):
        names.update(json_line({"image": item.name}))
        photos += 1
    if names.hexdigest() != finished["names"] or next(items, None) is not None:
        raise _others(path)
    tally.add(photos, finished["failures"], found=True)


def _others(path: Path) -> InputError:
    return InputError(
        f"{path} was begun with other photos, or in another order; pass --overwrite to begin again, "
        "or --skip-existing, once it is whole, to add photos"
    )


def _skip(record: Journal, items: Iterator[Item], done: int, path: Path, tally: Tally) -> None:
    """Pass by the photos that are done. Raises InputError where they are not those of the journal."""
    failures = 0
    for entry in record.entries():
        item = next(items, None)
        if item is None or json_line({"image": item.name}) != json_line({"image": entry["image"]}):
            raise _others(path)
        failures += "error" in entry
    tally.add(done, failures, found=True)


def _caption_rest(record: Journal, items: Iterator[Item], caption: Caption, tally: Tally, batch: int) -> None:
    waiting: deque[Item] = deque()

    def noted() -> Iterator[Item]:
        for item in items:
            waiting.append(item)
            yield item

    entries: list[dict[str, Any]] = []
    for result in caption(noted()):
        item = waiting.popleft()
        fault = result if isinstance(result, InputError) else None
        entries.append({"image": item.name, "row": result} if fault is None else _failed(item, fault))
        if len(entries) == batch:
            record.append(entries)
            entries = []
        tally.add(1, int(fault is not None), fault=fault)
    if entries:
        record.append(entries)


def _failed(item: Item, fault: InputError) -> dict[str, Any]:
    return {"image": item.name, "error": str(fault)}


def _write_errors(path: Path, record: Journal) -> None:
    """``FILE.errors.jsonl``: a line for each photo without a row; no file where there is none."""
    errors = path.with_name(f"{path.name}.errors.jsonl")
    if any("error" in entry for entry in record.entries()):
        faulty = (entry for entry in record.entries() if "error" in entry)
        write_atomically(errors, lambda part: part.write_bytes(b"".join(map(json_line, faulty))))
    else:
        errors.unlink(missing_ok=True)
