"""What scores take for the words of a caption: one tokeniser for each name that ``--tokenizer`` has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from clearcap.errors import InputError
from clearcap.metrics.tokenizer import tokenize
from clearcap.metrics.unicode_words import unicode_words, unspaced

TOKENIZERS: dict[str, Callable[[Sequence[str]], list[list[str]]]] = {
    "ptb": tokenize,
    "unicode": unicode_words,
}
DESCRIPTIONS = {  # as results say it
    "ptb": "Stanford PTB 3.4.1, lower case, no punctuation",
    "unicode": "words of any script, lower case, no punctuation; characters where it has no spaces",
}


def agreement_words(captions: Sequence[str]) -> list[list[str]]:
    """The words by which captions are compared with each other: COCO's, and characters where a script has no spaces."""
    return tokenize(["".join(f" {one} " if unspaced(one) else one for one in text) for text in captions])


def words_by(tokenizer: str) -> Callable[[Sequence[str]], list[list[str]]]:
    """Captions -> words of each. Raises InputError where there is no such tokeniser."""
    if not isinstance(tokenizer, str) or tokenizer not in TOKENIZERS:
        raise InputError(f"unknown tokenizer {tokenizer!r}; choose one of {', '.join(TOKENIZERS)}")
    return TOKENIZERS[tokenizer]


def tokenizer_of(described: Mapping[str, str], where: str) -> str:
    """The tokeniser that results say they were scored with.

    Raises:
        InputError: it is none of ours.
    """
    said = described.get("tokenizer")
    for name, description in DESCRIPTIONS.items():
        if said == description:
            return name
    raise InputError(f"{where}: scored with the tokenizer {said!r}, which this version does not know")
