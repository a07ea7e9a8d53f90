"""Files beside each photo: its caption as text, as JSON, or as XMP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from clearcap.bulk.formats import Row, json_line, write_atomically
from clearcap.bulk.xmp import described
from clearcap.errors import InputError


class Sidecars:
    """What is written beside photos; a file that is there already is left alone unless it may be overwritten."""

    def __init__(self, kinds: Sequence[str], overwrite: bool = False) -> None:
        """Args:
        kinds: of "txt", "json" and "xmp".
        overwrite: whether a file that is there is replaced; an XMP file keeps whatever else it says.
        """
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise InputError(f"sidecar={unknown[0]!r} is not known; choose {', '.join(KINDS)}")
        self.kinds, self.overwrite = tuple(dict.fromkeys(kinds)), overwrite

    def missing(self, photo: Path) -> list[Path]:
        """The files that are to be written beside a photo."""
        files = [photo.with_suffix(f".{kind}") for kind in self.kinds]
        return [file for file in files if self.overwrite or not file.exists()]

    def write(self, photo: Path, row: Row, captions: Sequence[str]) -> None:
        """Write what is missing.

        Args:
            photo: its file.
            row: what a file of captions says of it.
            captions: as they are written.

        Raises:
            InputError: a file cannot be written, or an XMP file that is there cannot be read.
        """
        for file in self.missing(photo):
            content = KINDS[file.suffix[1:]](file, row, captions)
            write_atomically(file, partial(_put, content))


def _put(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def _txt(file: Path, row: Row, captions: Sequence[str]) -> bytes:
    return "".join(f"{caption}\n" for caption in captions).encode(errors="backslashreplace")


def _json(file: Path, row: Row, captions: Sequence[str]) -> bytes:
    return json_line(row)


def _xmp(file: Path, row: Row, captions: Sequence[str]) -> bytes:
    return described(file, captions[0])


KINDS: dict[str, Callable[[Path, Row, Sequence[str]], bytes]] = {"txt": _txt, "json": _json, "xmp": _xmp}
