"""What a user names on the command line, as single photos in a stable order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from clearcap.data.fetch import is_url
from clearcap.errors import InputError

_COMMON = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp"}
IMAGE_SUFFIXES = frozenset(
    _COMMON | {".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif", ".ico"}
)


def expand(paths: Iterable[str]) -> list[str | InputError]:
    """Files, folders, globs and URLs as single photos, in the order given.

    A folder stands for the image files in it and below it (by suffix, hidden ones left out), sorted by path.
    A glob (`**` included) stands for its matches with an image suffix, folders expanded, sorted. A file that
    is named is kept whatever its suffix, and so is a URL; neither is opened here.

    Returns:
        A path or URL per photo; where something matches no photo, an `InputError` in its place, so that the
        others go on.
    """
    return [entry for path in paths for entry in _expand_one(path)]


def _expand_one(path: str) -> list[str | InputError]:
    if is_url(path):
        return [path]
    shown = " ".join(path.split())
    if "\0" in path or not path:
        return [InputError(f"{path!r} is not a path; name a photo, a folder, a glob or a URL")]
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
    photos: list[str | InputError] = [*dict.fromkeys(photo for match in matches for photo in _photos(match))]
    return photos or [InputError(f"{shown}: matches {len(matches)} files and no image among them; check it")]


def _photos(match: str) -> list[str]:
    if os.path.isdir(match):
        return _images_below(match)
    return [match] if Path(match).suffix.lower() in IMAGE_SUFFIXES else []


def _images_below(folder: str) -> list[str]:
    found = []
    for here, folders, files in os.walk(folder):  # links to folders are not followed: they may form a ring
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(here, name)
            for name in files
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
