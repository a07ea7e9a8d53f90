"""ROUGE-L (Lin 2004): F-score of the longest common subsequence, as COCO captioning scores it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clearcap.metrics.interface import Captions, Score

BETA = 1.2  # weight of recall over precision in COCO's evaluation


def score_rouge_l(captions: Captions) -> dict[str, Score]:
    """Beta 1.2, best recall and best precision over the references."""
    return {"ROUGE-L": rouge_l(captions.candidate_tokens, captions.reference_tokens)}


def rouge_l(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Score:
    """Mean ROUGE-L of the corpus and the score of each photo's candidate, in [0, 1].

    The best precision and the best recall over the references are combined, as pycocoevalcap does. An empty
    candidate scores 0 (pycocoevalcap gives it 1 when a reference is empty too).
    """
    scores = np.array([_score(h, refs) for h, refs in zip(hypotheses, references, strict=True)], float)
    return float(scores.mean()) if len(scores) else 0.0, scores


def _score(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    if not hypothesis:
        return 0.0
    places: dict[str, int] = {}  # token -> bit set of its positions in the candidate
    for position, token in enumerate(hypothesis):
        places[token] = places.get(token, 0) | 1 << position
    common = [_common_subsequence(places, len(hypothesis), reference) for reference in references]
    precision = max(common) / len(hypothesis)
    recall = max(c / max(1, len(reference)) for c, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_subsequence(places: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as one integer (Hyyrö 2004)."""
    everything = (1 << length) - 1
    row = everything
    for token in reference:
        hits = row & places.get(token, 0)
        row = (row + hits | row - hits) & everything
    return length - row.bit_count()
