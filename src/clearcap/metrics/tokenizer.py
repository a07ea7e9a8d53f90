"""Captions to tokens as COCO captioning does it (first cut: words and marks; the PTB rules follow)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*|[^\s\w.,;:?!'\"`()-]")


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Tokens of each caption, in lower case, without punctuation."""
    return [_TOKEN.findall(caption.lower()) for caption in captions]
