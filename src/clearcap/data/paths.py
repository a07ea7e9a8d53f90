"""What a user names on the command line, as single photos in a stable order."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from clearcap.data.fetch import clipped
from clearcap.data.images import RAW_SUFFIXES, PhotoBytes, is_url
from clearcap.errors import InputError

_COMMON = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp"}
IMAGE_SUFFIXES = frozenset(
    _COMMON
    | {".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".jpx", ".avif", ".avifs", ".ico"}
    | {".heic", ".heif", ".hif", ".heics", ".heifs"}  # where pillow-heif is installed
)
# Photos too, which no reader of ours knows: a folder of them is no empty folder.
PHOTO_SUFFIXES = (
    IMAGE_SUFFIXES | RAW_SUFFIXES | {".jxl", ".jxr", ".svg", ".psd", ".tga", ".exr", ".hdr", ".bpg"}
)

_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r")  # bytes that no text has, and every encoded photo has

Entry: TypeAlias = str | PhotoBytes | InputError


def expand(paths: Iterable[str]) -> list[Entry]:
    """Files, folders, globs, URLs and lists of them as single photos, in the order given.

    A folder stands for the photos in it and below it (by suffix, hidden ones left out), sorted by path; those in
    formats that are not read are among them, and end in an error when opened. A glob (`**` included) stands for its
    matches with such a suffix, folders expanded, sorted. A file that is named is kept whatever its suffix, and so is a
    URL; neither is opened here. ``@FILE`` stands for the names in a file, one a line, and ``-`` for those on standard
    input, or for the photo there if it is not text.

    Returns:
        A path or URL per photo; where something matches no photo, an `InputError` in its place, so that the
        others go on.
    """
    return [*each_entry(paths)]


def each_entry(
    paths: Iterable[str], *, recursive: bool = True, archives: Sequence[str] = ()
) -> Iterator[Entry]:
    """As `expand`, one entry at a time: memory holds one folder's names, whatever lies below it.

    Args:
        paths: as for `expand`.
        recursive: whether a folder stands for what is below it, too.
        archives: suffixes of files that hold photos. A folder without any photo stands for those in it, and a glob
            that ends in such a suffix for its matches.
    """
    for path in paths:
        yield from _listed(path, recursive, tuple(archives))


def _listed(path: str, recursive: bool, archives: tuple[str, ...]) -> Iterator[Entry]:
    if path == "-":
        data = sys.stdin.buffer.read()
        photo = not _CONTROL.isdisjoint(data[:4096])
        if photo:
            yield PhotoBytes(data, "standard input")
        else:
            yield from _names(data, "standard input", recursive, archives)
    elif path.startswith("@") and not os.path.exists(path):
        try:
            data = Path(path[1:]).read_bytes()
        except (OSError, ValueError) as error:
            yield InputError(
                f"{clipped(path[1:])!r} cannot be read as a list of photos ({error}); check the path"
            )
        else:
            yield from _names(data, path[1:], recursive, archives)
    else:
        yield from _expand_one(path, recursive, archives)


def _names(data: bytes, source: str, recursive: bool, archives: tuple[str, ...]) -> Iterator[Entry]:
    lines = (line.strip(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    named = [os.fsdecode(line) for line in lines if line.strip()]
    if not named:
        yield InputError(f"{clipped(source)} names no photo; write a path or URL a line")
    for name in named:
        yield from _expand_one(name, recursive, archives)


def _expand_one(path: str, recursive: bool, archives: tuple[str, ...]) -> Iterator[Entry]:
    shown = clipped(" ".join(path.split()))
    if is_url(path):
        yield path
        return
    if "\0" in path or not path:
        yield InputError(f"{shown!r} is not a path; name a photo, a folder, a glob or a URL")
        return
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        yield from _first_that_holds(
            _files_below(path, PHOTO_SUFFIXES, recursive),
            _files_below(path, archives, recursive),
            [InputError(f"{shown}: no image file in this folder{' or below it' * recursive}; name another")],
        )
    elif os.path.exists(path):  # "photo[1].jpg" is a file before it is a glob
        yield path
    elif not glob.has_magic(path):
        yield InputError(f"{shown}: no such file; check the path")
    else:
        yield from _matches(path, shown, recursive, archives)


def _matches(pattern: str, shown: str, recursive: bool, archives: tuple[str, ...]) -> Iterator[Entry]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        yield InputError(f"{shown}: nothing matches this pattern; check it")
        return
    wanted = (*PHOTO_SUFFIXES, *(suffix for suffix in archives if pattern.lower().endswith(suffix)))
    photos: dict[str, None] = {}
    for match in matches:
        if os.path.isdir(match):
            photos.update(dict.fromkeys(_files_below(match, PHOTO_SUFFIXES, recursive)))
        elif has_suffix(match, wanted):
            photos[match] = None
    if not photos:
        yield InputError(f"{shown}: matches {len(matches)} files and no image among them; check it")
    yield from photos


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Whether a file's name ends in one of the suffixes, in capitals or not."""
    return os.path.basename(name).lstrip(".").lower().endswith(tuple(suffixes))


def _first_that_holds(*several: Iterable[Entry]) -> Iterator[Entry]:
    """All of the first that has any."""
    for entries in several:
        empty = True
        for entry in entries:
            empty = False
            yield entry
        if not empty:
            return


def _files_below(folder: str, suffixes: Iterable[str], recursive: bool) -> Iterator[str]:
    """Files with such a suffix, in the order of their paths; links to folders, which may form a ring, are left."""
    suffixes = tuple(suffixes)
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return  # as os.walk does
    folders = {entry.name: entry.is_symlink() for entry in entries if _is_folder(entry)}
    for name in sorted(  # a folder's place among files is that of its files' paths
        (entry.name for entry in entries), key=lambda name: name + "/" * (name in folders)
    ):
        if name not in folders:
            if has_suffix(name, suffixes):
                yield os.path.join(folder, name)
        elif recursive and not folders[name]:
            yield from _files_below(os.path.join(folder, name), suffixes, recursive)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
