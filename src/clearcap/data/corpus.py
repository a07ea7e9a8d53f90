"""A captioning corpus by name: the one place where everything else opens corpora."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from clearcap.data.records import Corpus, CorpusReader, Expected, Missing, Report, Strictness, refuse
from clearcap.errors import InputError
from clearcap.registry import find

_SPEC = re.compile(r"([^:]+):(.+?)(?::([^:/\\]*(?:\[[^/\\]*\])?))?")  # a split may be a slice: train[:10%]


def find_reader(name: str) -> CorpusReader:
    """The corpus of this name in the registry. Raises InputError."""
    reader: CorpusReader = find("corpus", name)
    return reader


def split_spec(text: str) -> tuple[str, str, str]:
    """Name, root and split of ``NAME:ROOT:SPLIT``; the split is empty where it is left out.

    The name ends at the first colon and the split begins after the last one, so a root may be a URL or begin with
    the letter of a Windows drive: what holds a slash or a backslash is no split.

    Raises:
        InputError: it is not of that form.
    """
    if (match := _SPEC.fullmatch(text)) is None:
        raise InputError(f"corpus {text!r} is not of the form NAME:ROOT:SPLIT, such as flickr8k:DIR:dev")
    return match[1], match[2], match[3] or ""


def parse_spec(text: str) -> tuple[str, str, str]:
    """Name, root and split of ``NAME:ROOT:SPLIT``; where the split is left out, the corpus's usual one.

    Raises:
        InputError: it is not of that form, or there is no such corpus.
    """
    name, root, split = split_spec(text)
    return name, root, split or find_reader(name).usual_split


def open_spec(
    text: str, *, expected: Expected = "official", missing: Missing = "error", **options: Any
) -> Corpus:
    """The split that ``NAME:ROOT:SPLIT`` names; further arguments and errors as for `open_corpus`."""
    return open_corpus(*parse_spec(text), expected=expected, missing=missing, **options)


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
        name: of a corpus in the registry.
        root: the folder (or file, or data set name) the corpus is in.
        split: as the corpus calls it; dev, val and validation name the same split.
        expected: photos the split must list: a number, "official" (the published count) or None for a subset.
        missing: a photo without a file is an "error", left out ("skip"), or kept unseen ("keep": for text).
        report: receives each problem; by default it raises `InputError`.
        options: what this reader alone knows, see its docstring.

    Raises:
        InputError: one line with file or value, fault and remedy.
    """
    strictness = Strictness(expected=expected, missing=missing, report=report)
    return find_reader(name).read(Path(os.path.expanduser(root)), split, strictness, **options)
