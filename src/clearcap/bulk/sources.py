"""Where photos come from: what a user names, as single photos, one at a time."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from clearcap.bulk.archives import ARCHIVES, TARS, ZIPS, tar_members, zip_members
from clearcap.bulk.tables import TABLES, count_rows, table_rows
from clearcap.data.fetch import clipped
from clearcap.data.images import PhotoBytes, PhotoSource, is_url
from clearcap.data.paths import PHOTO_SUFFIXES, each_entry, has_suffix
from clearcap.data.shards import in_braces
from clearcap.errors import InputError

HOLDING = (*ARCHIVES, *TABLES)


@dataclass(frozen=True)
class Item:
    """One photo, not yet opened.

    Attributes:
        name: what rows call it.
        photo: what ``CaptionPipeline`` takes, or why there is none.
        file: the photo's file on this machine, beside which sidecars lie; None where it has none.
    """

    name: str
    photo: Any
    file: Path | None = None


@dataclass(frozen=True)
class Piece:
    """Photos that follow each other in one thing that was named, of which nothing has been opened.

    Attributes:
        entry: a photo, an archive or a table, or why there is none.
        start: the first of them, counted from 0.
        stop: the one after the last.
    """

    entry: str | PhotoBytes | InputError
    start: int
    stop: int


class Sources:
    """What a user named; iterated as often as one likes, in the same order."""

    def __init__(
        self, paths: Iterable[str], *, recursive: bool = True, image_column: str | None = None
    ) -> None:
        """Standard input is read here, once.

        Args:
            paths: photos, folders, globs, URLs, ``-`` and ``@FILE`` as ``clearcap.data.paths.expand`` knows them;
                tar files (WebDataset shards, also as ``{000..009}.tar``; gzip, bzip2 and xz, too), zip files,
                parquet and Arrow files with a column of photos; any of them behind an address of fsspec, which may
                be a pattern or end in a slash.
            recursive: whether a folder stands for what is below it, too.
            image_column: of tables; default is one with a usual name.
        """
        self.recursive, self.image_column = recursive, image_column
        self._given: list[str | PhotoBytes | InputError] = []
        for path in paths:
            if path == "-":
                self._given += each_entry([path], recursive=recursive, archives=HOLDING)
            else:
                self._given.append(path)

    def __iter__(self) -> Iterator[Item]:
        for entry in self.entries():
            yield from self.items(entry)

    def count(self) -> int | None:
        """How many photos there are; None where only reading everything would tell."""
        total = 0
        for entry in self.entries():
            if holds_several(entry) and (is_url(entry) or has_suffix(entry, TARS[1:])):
                return None
            total += self.length(entry)
        return total

    def length(self, entry: str | PhotoBytes | InputError) -> int:
        """How many photos an entry has; archives behind an address and compressed tars are read for that."""
        if not holds_several(entry):
            return 1
        if has_suffix(entry, TABLES) and not is_url(entry):
            return count_rows(entry)
        return sum(1 for _ in self.items(entry))

    def within(self, pieces: Iterable[Piece]) -> Iterator[Item]:
        """The photos of some pieces, in their order."""
        for piece in pieces:
            yield from islice(self.items(piece.entry), piece.start, piece.stop)

    def entries(self) -> Iterator[str | PhotoBytes | InputError]:
        """Photos, archives and tables, one after the other; none is opened."""
        for given in self._given:
            if not isinstance(given, str):
                yield given
                continue
            for path in in_braces(given) if not os.path.exists(given) and not is_url(given) else [given]:
                for entry in each_entry([path], recursive=self.recursive, archives=HOLDING):
                    if isinstance(entry, str) and is_url(entry):
                        yield from _remote(entry)
                    else:
                        yield entry

    def items(self, entry: str | PhotoBytes | InputError) -> Iterator[Item]:
        """The photos of an entry."""
        if isinstance(entry, InputError):
            yield Item("", entry)
        elif isinstance(entry, PhotoSource):
            yield Item(entry.name, entry)
        elif entry[:5].lower() == "data:":
            yield Item(clipped(entry), entry)
        elif not has_suffix(entry, HOLDING):
            yield Item(entry, entry, None if is_url(entry) else Path(entry))
        else:
            try:
                for photo in self._held(entry):
                    yield Item(photo.name, photo)
            except InputError as fault:
                yield Item(entry, fault)

    def _held(self, entry: str) -> Iterator[PhotoSource]:
        if has_suffix(entry, TARS):
            return tar_members(entry)
        if has_suffix(entry, ZIPS):
            return zip_members(entry)
        return table_rows(entry, self.image_column)


def holds_several(entry: str | PhotoBytes | InputError) -> TypeGuard[str]:
    """Whether an entry is an archive or a table of photos."""
    return isinstance(entry, str) and entry[:5].lower() != "data:" and has_suffix(entry, HOLDING)


def in_pieces(
    lengths: Iterable[tuple[str | PhotoBytes | InputError, int]], size: int
) -> Iterator[list[Piece]]:
    """Entries and their numbers of photos, shared out: ``size`` photos each, but for the last, in their order."""
    pieces: list[Piece] = []
    room = size
    for entry, length in lengths:
        start = 0
        while start < length:
            stop = min(length, start + room)
            pieces.append(Piece(entry, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield pieces
                pieces, room = [], size
    if pieces:
        yield pieces


def _remote(url: str) -> Iterator[str | InputError]:
    """The addresses that a pattern, or one that ends in a slash, of a file system of fsspec stands for."""
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("http", "https", "data", "file") or not (glob.has_magic(url) or url.endswith("/")):
        yield url
        return
    shown = clipped(" ".join(url.split()))
    try:
        import fsspec
    except ImportError:
        yield InputError(f"{shown}: pip install 'clearcap[fsspec]' for addresses other than http and file")
        return
    try:
        system, path = fsspec.core.url_to_fs(url)
        found = system.find(path) if url.endswith("/") else system.glob(path)
    except Exception as error:  # each file system raises its own
        yield InputError(f"{shown} cannot be listed ({' '.join(str(error).split())}); check the address")
        return
    suffixes = (*PHOTO_SUFFIXES, *(one for one in HOLDING if url.lower().endswith(one)))
    names = [name for name in sorted(found) if has_suffix(posixpath.basename(name), suffixes)]
    if not names:
        yield InputError(f"{shown}: no photo there; check the address")
    for name in names:
        yield system.unstrip_protocol(name)
