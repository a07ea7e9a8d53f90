"""A captioning corpus by name: the one function everything else opens corpora with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearcap.data.flickr import read_flickr8k
from clearcap.data.folder import read_folder
from clearcap.data.records import CaptionedPhoto, Corpus, Expected, Missing, Report, Strictness, refuse
from clearcap.errors import InputError

__all__ = ["READERS", "CaptionedPhoto", "Corpus", "open_corpus"]

READERS: dict[str, Callable[..., Corpus]] = {
    "flickr8k": read_flickr8k,
    "folder": read_folder,
}


def open_corpus(
    name: str,
    root: str | Path,
    split: str = "all",
    *,
    expected: Expected = "official",
    missing: Missing = "error",
    report: Report = refuse,
    **options: Any,
) -> Corpus:
    """One split of a corpus, verified; its photos are opened when asked for.

    Args:
        name: a key of `READERS`.
        root: the folder (or file, or data set name) the corpus is in.
        split: as the corpus calls it; dev, val and validation name the same split.
        expected: photos the split must list: a number, "official" (the published count) or None for a subset.
        missing: a photo without a file is an "error", left out ("skip"), or kept unopened ("keep": for text only).
        report: receives each problem; by default it raises `InputError`.
        options: what this reader alone knows, see its docstring.

    Raises:
        InputError: one line with file or value, fault and remedy.
    """
    if name not in READERS:
        raise InputError(f"no corpus is called {name!r}; choose among {', '.join(READERS)}")
    strictness = Strictness(expected=expected, missing=missing, report=report)
    return READERS[name](Path(root).expanduser(), split, strictness, **options)
