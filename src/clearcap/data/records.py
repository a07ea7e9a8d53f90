"""What a corpus is, and the verification every reader ends in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from clearcap.data.images import PhotoFile, PhotoSource
from clearcap.errors import InputError

Report: TypeAlias = Callable[[str], None]
Missing: TypeAlias = Literal["error", "skip", "keep"]
Expected: TypeAlias = int | Literal["official"] | None


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo with its reference captions. `id` is what the corpus's own files call it."""

    id: str
    image: PhotoSource
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """The photos of one split of a corpus, in the order of its files; found by position or by id."""

    name: str
    split: str
    photos: Sequence[CaptionedPhoto]

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[CaptionedPhoto]:
        return iter(self.photos)

    def __getitem__(self, key: int | str) -> CaptionedPhoto:
        if isinstance(key, int):
            return self.photos[key]
        return self.photos[self._positions[key]]

    def __contains__(self, id: object) -> bool:
        return id in self._positions

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {photo.id: position for position, photo in enumerate(self.photos)}


@dataclass(frozen=True)
class Listed:
    """A photo as a corpus's files list it, before anything is verified. `where` is file and line."""

    id: str
    image: PhotoSource
    captions: object
    where: str


def of_split(labelled: Iterable[tuple[str, Listed]], split: str) -> tuple[list[Listed], dict[str, set[str]]]:
    """Of photos with the names of their splits, those of one split, and the ids in each of the others."""
    groups: dict[str, list[Listed]] = {}
    for label, item in labelled:
        groups.setdefault(label, []).append(item)
    return groups.pop(split, []), {label: {item.id for item in items} for label, items in groups.items()}


def refuse(problem: str) -> None:
    """The report of a reader that stops at the first problem.

    Raises:
        InputError: always.
    """
    raise InputError(problem)


@dataclass(frozen=True)
class Strictness:
    """How a reader treats what it finds.

    Attributes:
        expected: photos the split must list: a number, "official" (the published split) or None (any number).
        missing: a photo without a file is an "error", left out ("skip"), or kept unopened ("keep": for text).
        report: receives each problem; by default it raises `InputError`, `check` collects.
    """

    expected: Expected = "official"
    missing: Missing = "error"
    report: Report = refuse

    def __post_init__(self) -> None:
        if self.missing not in ("error", "skip", "keep"):
            raise InputError(f"missing={self.missing!r}; pass 'error', 'skip' or 'keep'")
        if isinstance(self.expected, str) and self.expected != "official":
            raise InputError(f"expected={self.expected!r}; pass a number of photos, 'official' or None")


@dataclass(frozen=True)
class CorpusReader:
    """A corpus as the registry knows it.

    Attributes:
        read: root, split, strictness and, by name, options of this corpus alone -> the verified split.
        splits: those the corpus is published with, which `check` looks at when it is not told.
    """

    read: Callable[..., Corpus]
    splits: tuple[str, ...] = ("all",)

    @property
    def usual_split(self) -> str:
        """The split that is meant where none is named: dev or val, or else all."""
        return next((name for name in self.splits if name in ("dev", "val")), "all")


def verified(
    name: str,
    split: str,
    listed: Iterable[Listed],
    strictness: Strictness,
    *,
    official: int | None = None,
    captions_each: int | None = None,
    captioned: bool = True,
    other_splits: Mapping[str, Collection[str]] | None = None,
) -> Corpus:
    """The verified corpus of what a reader listed.

    White space in captions is reduced to single spaces, and captions without a word are left out.

    Args:
        name: of the corpus.
        split: of the corpus.
        listed: its photos, each once.
        strictness: what is expected and where problems go.
        official: photos in the published split, where there is one.
        captions_each: captions per photo in the published split, where it is the same for all.
        captioned: whether every photo must have a caption (test splits are published without).
        other_splits: ids in the other splits, none of which may be listed here.

    Raises:
        InputError: through `strictness.report`: wrong count, duplicate id, caption of the wrong type, no
            caption, missing or empty photo file, photo in two splits.
    """
    title, report = f"{name} {split}", strictness.report
    photos: dict[str, CaptionedPhoto] = {}
    duplicates, missing, bare = [], [], []
    count = 0
    for item in listed:
        count += 1
        if item.id in photos:
            duplicates.append(f"{item.id} ({item.where})")
            continue
        captions = _captions(item, report)
        if captioned and not captions:
            bare.append(f"{item.id} ({item.where})")
            continue
        if strictness.missing != "keep" and _is_missing(item.image):
            missing.append(item.image.name)
            if strictness.missing == "skip":
                continue
        photos[item.id] = CaptionedPhoto(item.id, item.image, captions)

    def blame(names: Sequence[str], fault: str, noun: str = "photo") -> None:
        if names:
            report(f"{title}: {several(names, noun)} {fault}")

    blame(duplicates, "listed twice; keep each photo id once")
    blame(bare, "without a caption; add captions or take them off the list")
    if strictness.missing == "error":
        blame(missing, "missing or empty; fetch them, or pass missing='skip'", "photo file")
    for other, ids in (other_splits or {}).items():
        leaked = [id for id in photos if id in ids]
        blame(leaked, f"also in the {other} split; take them out of one of them")
    expected = official if strictness.expected == "official" else strictness.expected
    if expected is not None and count != expected:
        report(
            f"{title} lists {count:,} photos where {expected:,} are expected; "
            "complete it, or pass expected=None if it is a subset on purpose"
        )
    if captions_each is not None and strictness.expected == "official":
        counts = {photo.id: len(photo.captions) for photo in photos.values()}
        odd = [f"{id} ({count})" for id, count in counts.items() if count != captions_each]
        remedy = "complete the captions, or pass expected=None"
        blame(odd, f"with other than {captions_each} captions; {remedy}")
    if not photos:
        report(f"{title} holds no photo; check its root folder and its lists")
    return Corpus(name, split, tuple(photos.values()))


def choose_split(name: str, split: str, splits: Collection[str]) -> str:
    """The corpus's own name for `split`, where dev, val and validation mean the same. Raises InputError."""
    if split in splits:
        return split
    synonyms = ("dev", "val", "validation", "valid")
    if split in synonyms and (found := next((name for name in synonyms if name in splits), None)):
        return found
    raise InputError(f"{name} has no split {split!r}; choose among {', '.join(splits)}")


def several(names: Sequence[str], noun: str) -> str:
    """For messages, in one line whatever names hold: '5 photos (a, b, c and 2 more)'."""
    shown = ", ".join(" ".join(name.split()) for name in names[:3]) + (
        f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    )
    return f"{len(names):,} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def _captions(item: Listed, report: Report) -> tuple[str, ...]:
    if not isinstance(item.captions, (list, tuple)):
        kind = type(item.captions).__name__
        report(f"{item.where}: the captions of photo {item.id} are of type {kind}; give a list of strings")
        return ()
    captions = []
    for caption in item.captions:
        if not isinstance(caption, str):
            kind = type(caption).__name__
            report(f"{item.where}: a caption of photo {item.id} is of type {kind}; give strings only")
        elif words := caption.split():
            captions.append(" ".join(words))
    return tuple(captions)


def _is_missing(image: PhotoSource) -> bool:
    if not isinstance(image, PhotoFile):
        return False  # a member of a shard or a row of a table was seen when it was listed
    try:
        return image.path.stat().st_size == 0
    except (OSError, ValueError):
        return True
