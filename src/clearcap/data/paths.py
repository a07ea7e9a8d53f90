"""What a user names on the command line, as single photos in a stable order."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable
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
    return [entry for path in paths for entry in _listed(path)]


def _listed(path: str) -> list[Entry]:
    if path == "-":
        data = sys.stdin.buffer.read()
        photo = not _CONTROL.isdisjoint(data[:4096])
        return [PhotoBytes(data, "standard input")] if photo else _names(data, "standard input")
    if path.startswith("@") and not os.path.exists(path):
        try:
            return _names(Path(path[1:]).read_bytes(), path[1:])
        except (OSError, ValueError) as error:
            return [
                InputError(
                    f"{clipped(path[1:])!r} cannot be read as a list of photos ({error}); check the path"
                )
            ]
    return _expand_one(path)


def _names(data: bytes, source: str) -> list[Entry]:
    lines = [os.fsdecode(line.strip(b"\r")) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    entries = [entry for line in lines if line.strip() for entry in _expand_one(line)]
    return entries or [InputError(f"{clipped(source)} names no photo; write a path or URL a line")]


def _expand_one(path: str) -> list[Entry]:
    if is_url(path):
        return [path]
    shown = clipped(" ".join(path.split()))
    if "\0" in path or not path:
        return [InputError(f"{shown!r} is not a path; name a photo, a folder, a glob or a URL")]
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return [*_images_below(path)] or [
            InputError(f"{shown}: no image file in this folder or below it; name another")
        ]
    if os.path.exists(path) or not glob.has_magic(path):  # "photo[1].jpg" is a file before it is a glob
        return [path] if os.path.exists(path) else [InputError(f"{shown}: no such file; check the path")]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        return [InputError(f"{shown}: nothing matches this pattern; check it")]
    photos: list[Entry] = [*dict.fromkeys(photo for match in matches for photo in _photos(match))]
    return photos or [InputError(f"{shown}: matches {len(matches)} files and no image among them; check it")]


def _photos(match: str) -> list[str]:
    if os.path.isdir(match):
        return _images_below(match)
    return [match] if Path(match).suffix.lower() in PHOTO_SUFFIXES else []


def _images_below(folder: str) -> list[str]:
    found = []
    for here, folders, files in os.walk(folder):  # links to folders are not followed: they may form a ring
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(here, name)
            for name in files
            if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
