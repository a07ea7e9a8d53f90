"""Everything wrong with a corpus, found without training on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from clearcap.data.corpus import find_reader, open_corpus
from clearcap.data.records import CaptionedPhoto, Expected
from clearcap.errors import InputError

_BATCH = 512  # photos handed to the threads at a time, so that a large corpus is not queued whole


@dataclass(frozen=True)
class SplitReport:
    """What one split holds."""

    split: str
    photos: int
    captions: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        name: of the corpus.
        root: where it lies.
        splits: counts, and the error of each photo that is missing or cannot be opened.
        problems: what the corpus's files get wrong, one sentence each.
        duplicates: photos of one split with the same pixels under several names, as "split/id"; worth
            knowing, no fault by itself.
        leaks: the same across splits: what is trained on is tested on.
    """

    name: str
    root: str
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    leaks: tuple[tuple[str, ...], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; duplicates inside a split do not count."""
        return not (self.problems or self.leaks or any(split.unreadable for split in self.splits))

    def lines(self, most: int = 20) -> list[str]:
        """The report for people: a line per split, then one per finding, at most so many of a kind."""
        unreadable = [f"unreadable: {fault}" for split in self.splits for fault in split.unreadable]
        leaks = [f"leak: the same photo is {' and '.join(group)}" for group in self.leaks]
        duplicates = [f"duplicate: the same photo is {' and '.join(group)}" for group in self.duplicates]
        return [
            *(f"{one.split}: {one.photos:,} photos, {one.captions:,} captions" for one in self.splits),
            *(f"problem: {problem}" for problem in self.problems),
            *(line for kind in (unreadable, leaks, duplicates) for line in _at_most(kind, most)),
        ]


def check(
    name: str,
    root: str | Path,
    splits: Sequence[str] | None = None,
    *,
    expected: Expected = "official",
    progress: Callable[[int, int], None] | None = None,
    workers: int = 4,
    **options: Any,
) -> CheckReport:
    """Reads every list and opens every photo of a corpus; reports, and never raises for what it finds there.

    Args:
        name: of the corpus, as for `open_corpus`.
        root: where it lies.
        splits: which; by default those the corpus is published with.
        expected: as for `open_corpus`, for every split.
        progress: called with photos done and photos in all.
        workers: threads that decode photos.
        options: of the reader.

    Raises:
        InputError: no corpus of that name.
    """
    published = find_reader(name).splits
    problems: list[str] = []
    how: dict[str, Any] = {"expected": expected, "missing": "keep", "report": problems.append, **options}
    corpora = []
    for split in published if splits is None else splits:
        try:
            corpora.append(open_corpus(name, root, split, **how))
        except InputError as error:
            problems.append(str(error))
    total, done = sum(map(len, corpora)), 0
    reports = []
    places: dict[bytes, list[tuple[str, str]]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for corpus in corpora:
            unreadable = []
            photos = iter(corpus)
            while batch := list(islice(photos, _BATCH)):
                for photo, outcome in zip(batch, pool.map(_fingerprint, batch), strict=True):
                    if isinstance(outcome, InputError):
                        unreadable.append(str(outcome))
                    else:
                        places.setdefault(outcome, []).append((corpus.split, photo.id))
                    done += 1
                    if progress is not None:
                        progress(done, total)
            captions = sum(len(photo.captions) for photo in corpus)
            reports.append(SplitReport(corpus.split, len(corpus), captions, tuple(unreadable)))
    groups = [group for group in places.values() if len(group) > 1]
    return CheckReport(
        name=name,
        root=str(root),
        splits=tuple(reports),
        problems=tuple(dict.fromkeys(problems)),
        duplicates=tuple(_labels(group) for group in groups if len({split for split, _ in group}) == 1),
        leaks=tuple(_labels(group) for group in groups if len({split for split, _ in group}) > 1),
    )


def _fingerprint(photo: CaptionedPhoto) -> bytes | InputError:
    """16 bytes that two photos share when their decoded pixels are equal, whatever their file says beside."""
    try:
        image = photo.image.open()
    except InputError as error:
        return error
    digest = hashlib.blake2b(f"{image.width}x{image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def _at_most(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most:,} more"]


def _labels(group: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{split}/{id}" for split, id in group)
