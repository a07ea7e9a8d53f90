"""A captioning corpus by name: the one function everything else opens corpora with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearcap.data.coco import read_coco, read_coco_karpathy
from clearcap.data.flickr import read_flickr8k, read_flickr30k, read_flickr30k_8k
from clearcap.data.folder import read_folder
from clearcap.data.huggingface import read_huggingface
from clearcap.data.nocaps import read_nocaps
from clearcap.data.paragraphs import read_paragraphs
from clearcap.data.records import CaptionedPhoto, Corpus, Expected, Missing, Report, Strictness, refuse
from clearcap.data.shards import read_webdataset
from clearcap.errors import InputError

__all__ = ["READERS", "SPLITS", "CaptionedPhoto", "Corpus", "open_corpus"]

READERS: dict[str, Callable[..., Corpus]] = {
    "flickr8k": read_flickr8k,
    "coco-karpathy": read_coco_karpathy,
    "coco": read_coco,
    "flickr30k": read_flickr30k,
    "flickr30k+8k": read_flickr30k_8k,
    "nocaps": read_nocaps,
    "stanford-paragraphs": read_paragraphs,
    "folder": read_folder,
    "huggingface": read_huggingface,
    "webdataset": read_webdataset,
}

# The splits each corpus is published with, what `check` looks at when not told.
SPLITS: dict[str, tuple[str, ...]] = {
    "flickr8k": ("train", "dev", "test"),
    "coco-karpathy": ("train", "val", "test"),
    "coco": ("train", "val"),
    "flickr30k": ("train", "val", "test"),
    "flickr30k+8k": ("train", "dev", "test"),
    "nocaps": ("val",),
    "stanford-paragraphs": ("train", "val", "test"),
    "folder": ("all",),
    "huggingface": ("train",),
    "webdataset": ("all",),
}


def find_reader(name: str) -> Callable[..., Corpus]:
    """The reader of this name. Raises InputError."""
    if name not in READERS:
        raise InputError(f"no corpus is called {name!r}; choose among {', '.join(READERS)}")
    return READERS[name]


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
        missing: a photo without a file is an "error", left out ("skip"), or kept unseen ("keep": for text).
        report: receives each problem; by default it raises `InputError`.
        options: what this reader alone knows, see its docstring.

    Raises:
        InputError: one line with file or value, fault and remedy.
    """
    read = find_reader(name)
    strictness = Strictness(expected=expected, missing=missing, report=report)
    return read(Path(root).expanduser(), split, strictness, **options)
