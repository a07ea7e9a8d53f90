"""Captions to words in any script, for languages that COCO's tokeniser does not fit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from clearcap.config import texts

# Scripts that are written without spaces and cannot be cut into words without a dictionary: Chinese characters, kana,
# Thai, Lao, Khmer, Burmese, Tibetan. Each letter, with the marks that belong to it, is a word.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Python's \w has no combining marks, which stand within the words of Arabic, Hebrew and the scripts of India.
_MARK = "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
_MARK += (
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"
)
_LETTER = rf"(?:(?![{_UNSPACED}])[\w{_MARK}])"
_WORD = re.compile(rf"[{_UNSPACED}][{_MARK}]*|{_LETTER}+(?:[-\u2010\u2011'\u2019]{_LETTER}+)*")


def unicode_words(captions: Sequence[str], *, lower: bool = True) -> list[list[str]]:
    """Words of each caption: runs of letters and digits of any script.

    A hyphen or apostrophe within a word belongs to it, so a German compound is one word, hyphens or not. A character of
    a script without spaces, such as Chinese, is a word. Punctuation is none.

    Args:
        captions: raw text.
        lower: fold case, as scores do.
    """
    found = (unicodedata.normalize("NFC", caption) for caption in texts("captions", captions))
    return [_WORD.findall(caption.lower() if lower else caption) for caption in found]
