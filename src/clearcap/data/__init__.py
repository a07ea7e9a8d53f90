"""Captioning corpora and photos: read, verified, described."""

from __future__ import annotations

from clearcap.data.corpus import open_corpus, open_spec
from clearcap.data.images import PhotoFile, PhotoSource, open_image, to_square
from clearcap.data.paths import expand
from clearcap.data.records import CaptionedPhoto, Corpus

__all__ = [
    "CaptionedPhoto",
    "Corpus",
    "PhotoFile",
    "PhotoSource",
    "expand",
    "open_corpus",
    "open_image",
    "open_spec",
    "to_square",
]
