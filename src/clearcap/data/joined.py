"""Paragraphs by rule: the captions of a photo of any other corpus, joined as sentences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from clearcap.data.corpus import find_reader, parse_spec
from clearcap.data.records import Corpus, CorpusReader, Strictness

WORDS = re.compile(r"[^\W\d_]+")


def read_joined(root: Path, split: str, strictness: Strictness) -> Corpus:
    """A corpus with one paragraph a photo in place of its captions.

    It is spelt ``joined:NAME:ROOT:SPLIT``, where the rest names the corpus itself.

    Args:
        root: the corpus as ``NAME:ROOT``.
        split: its split.
        strictness: as the corpus's own reader has it.

    Raises:
        InputError: as that reader.
    """
    name, place, _ = parse_spec(f"{root}:{split}")
    corpus = find_reader(name).read(Path(place), split, strictness)
    photos = [dataclasses.replace(photo, captions=(joined(photo.captions),)) for photo in corpus.photos]
    return Corpus(f"joined {corpus.name}", corpus.split, photos)


def joined(captions: Sequence[str]) -> str:
    """Captions as sentences of one paragraph; one that adds no word to those before it is left out."""
    said: set[str] = set()
    sentences: list[str] = []
    for caption in captions:
        words = set(WORDS.findall(caption.lower()))
        if words - said:
            sentences.append(caption.rstrip(" .") + " .")
            said |= words
    return " ".join(sentences)


JOINED = CorpusReader(read_joined)
