"""Captions to words in any script, for languages that COCO's tokeniser does not fit."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

from clearcap.config import texts

# First letters of scripts that are written without spaces, and the first characters behind them: Thai and Lao, Tibetan,
# Burmese, Khmer, kana, Chinese characters.
_UNSPACED = (
    (0x0E00, 0x0F00), (0x0F00, 0x1000), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3005, 0x3008), (0x3040, 0x3100),
    (0x31F0, 0x3200), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000),
)  # fmt: skip
_WORD = re.compile(r"um*|[wd][wdm]*(?:-[wd][wdm]*)*")  # over kinds of characters


def unicode_words(captions: Sequence[str], *, lower: bool = True) -> list[list[str]]:
    """Words of each caption: runs of letters, digits and their marks, of any script.

    A hyphen or apostrophe within a word belongs to it, so a German compound is one word, with hyphens or without. A
    letter of a script that is written without spaces, such as a Chinese character, is a word. Punctuation is none.

    Args:
        captions: raw text.
        lower: fold case, as scores do.
    """
    found = []
    for caption in texts("captions", captions):
        text = unicodedata.normalize("NFC", caption)
        kinds = "".join(map(_kind, text))
        words = [text[match.start() : match.end()] for match in _WORD.finditer(kinds)]
        found.append([word.lower() for word in words] if lower else words)
    return found


@cache
def unspaced(character: str) -> bool:
    """Whether a character is a letter of a script that is written without spaces."""
    return _kind(character) == "u"


@cache
def _kind(character: str) -> str:
    """u: letter without spaces, w: other letter, d: digit, m: mark of the letter before it, "-": within words."""
    category = unicodedata.category(character)
    if category[0] == "M" or character in "\u200c\u200d":  # joiners, within words of Persian and of India
        return "m"
    if category[0] == "L" or character == "\u3007":
        place = bisect_right(_UNSPACED, (ord(character), 0x110000)) - 1
        return "u" if place >= 0 and ord(character) < _UNSPACED[place][1] else "w"
    if category[0] == "N":
        return "d"
    return "-" if character in "-'\u2010\u2011\u2019" else " "
