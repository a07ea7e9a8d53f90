"""Errors of colour and of grammar in captions, found by rules; lower is better (CLIP-Diffusion-LM, section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from clearcap.metrics.interface import Captions, Score

COLOURS = {
    "black": "black",
    "white": "white",
    "red": "red",
    "maroon": "red",
    "blue": "blue",
    "navy": "blue",
    "turquoise": "blue",
    "green": "green",
    "yellow": "yellow",
    "gold": "yellow",
    "golden": "yellow",
    "blond": "yellow",
    "blonde": "yellow",
    "orange": "orange",
    "brown": "brown",
    "tan": "brown",
    "beige": "brown",
    "pink": "pink",
    "purple": "purple",
    "violet": "purple",
    "gray": "gray",
    "grey": "gray",
    "silver": "gray",
}  # word -> what it counts as; fmt: skip
PREPOSITIONS = {
    "about", "above", "across", "against", "along", "among", "at", "behind", "beside", "between", "by", "for", "from",
    "in", "into", "near", "of", "on", "onto", "over", "through", "to", "toward", "towards", "under", "with", "while",
}  # fmt: skip
OPEN = PREPOSITIONS - {"by", "over", "through", "behind", "along", "across", "under", "in", "on"}
"""Prepositions that no verb ends with ("a dog runs by")."""
ARTICLES = {"a", "an", "the", "his", "her", "its", "their"}
TIES = {"and", "or", "but", "as", "is", "are", "while", "that", "who", "which"}
VERBS = {"is", "are", "has", "have", "was", "were"}


def score_colours(captions: Captions) -> Mapping[str, Score]:
    """Share of candidates with a colour that no reference names; lower is better.

    Shades count as their colour (navy is blue, blond is yellow). A photo whose references name no colour counts
    too: a colour that nobody found worth saying may still be right, so this is an upper bound.
    """
    wrong = [
        bool(_colours([words]) - _colours(references))
        for words, references in zip(captions.candidate_tokens, captions.reference_tokens, strict=True)
    ]
    return _share("colour-errors", wrong)


def score_grammar(captions: Captions) -> Mapping[str, Score]:
    """Share of candidates with a mistake that rules find; lower is better.

    A mistake is one of: no word; no subject (it begins with a preposition, "and", "is" or the like); a word twice in
    a row; an article before an article, a preposition or the end; "of", "with" and other prepositions that no verb ends
    with, "and" or "is" at the end.
    """
    return _share("grammar-errors", [is_broken(words) for words in captions.candidate_tokens])


def is_broken(words: Sequence[str]) -> bool:
    """Whether a tokenised caption has a mistake that ``score_grammar`` counts."""
    return bool(faults_of(words))


def faults_of(words: Sequence[str]) -> list[str]:
    """The mistakes of a tokenised caption that ``score_grammar`` counts, by name.

    They are "no word", "no subject", "repeated word", "stray article" and "dangling end".
    """
    if not words:
        return ["no word"]
    pairs = list(pairwise(words))
    found = {
        "no subject": words[0]
        in TIES | VERBS | (PREPOSITIONS - {"in", "on", "at", "near", "under", "behind"}),
        "repeated word": any(first == second for first, second in pairs),
        "stray article": any(
            first != second and first in ARTICLES and second in ARTICLES | PREPOSITIONS | TIES
            for first, second in pairs
        ),
        "dangling end": words[-1] in OPEN | ARTICLES | TIES,
    }
    return [name for name, wrong in found.items() if wrong]


def _colours(captions: Sequence[Sequence[str]]) -> set[str]:
    return {COLOURS[word] for words in captions for word in words if word in COLOURS}


def _share(name: str, wrong: Sequence[bool]) -> Mapping[str, Score]:
    values = np.array(wrong, float)
    return {name: (float(values.mean()), values)}
