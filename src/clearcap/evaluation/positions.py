"""Where in a caption its errors are, and how scores go with its length."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from clearcap.metrics.interface import Captions
from clearcap.metrics.scoring import score

POSITIONS = 12
LENGTHS = ((1, 7), (8, 9), (10, 11), (12, 18))  # words of a caption


def position_errors(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> list[float | None]:
    """Share of the words at each position that no reference of the photo has; None where too few captions reach.

    Args:
        captions: photo -> caption.
        references: photo -> references.
    """
    given = Captions(list(captions.values()), [list(references[photo]) for photo in captions])
    found: list[float | None] = []
    for place in range(POSITIONS):
        wrong = [
            words[place] not in set().union(*known)
            for words, known in zip(given.candidate_tokens, given.reference_tokens, strict=True)
            if len(words) > place
        ]
        found.append(statistics.fmean(wrong) if len(wrong) > len(captions) / 20 else None)
    return found


def scores_by_length(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """BLEU-4 of the captions of each length, as LaDiC's Figure 2b groups them.

    Args:
        captions: photo -> caption.
        references: photo -> references.
    """
    found = {}
    for low, high in LENGTHS:
        some = {photo: text for photo, text in captions.items() if low <= len(text.split()) <= high}
        if len(some) > len(captions) / 20:
            of_some = score(some, {photo: references[photo] for photo in some}, ("BLEU",))  # type: ignore[arg-type]
            found[f"{low}-{high}"] = {"captions": len(some), "BLEU-4": of_some.corpus["BLEU-4"]}
    return found
