"""How often hidden words are filled in exactly, and how sure that share is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clearcap.errors import InputError


@dataclass(frozen=True)
class Infilling:
    """What `accuracy` returns.

    Attributes:
        words: share of all hidden words that were recovered.
        captions: share of captions in which every hidden word was.
        per_caption: for each caption, the share of its hidden words that were.
    """

    words: float
    captions: float
    per_caption: list[float]


def accuracy(answers: Sequence[Sequence[str]], truths: Sequence[Sequence[str]]) -> Infilling:
    """Compare filled-in words with the hidden ones, place by place; case does not count.

    Args:
        answers: for each caption, the words put in, in the order of the gaps.
        truths: for each caption, the words that were hidden there, at least one.

    Raises:
        InputError: captions or gaps do not correspond, or nothing was hidden.
    """
    if len(answers) != len(truths) or not truths:
        raise InputError(
            f"{len(answers)} answers for {len(truths)} captions; pass one list of words a caption"
        )
    hits: list[list[bool]] = []
    for place, (filled, hidden) in enumerate(zip(answers, truths, strict=True)):
        if len(filled) != len(hidden) or not hidden:
            raise InputError(
                f"caption {place} has {len(hidden)} hidden words and {len(filled)} answers; pass one answer a gap, "
                "and only captions with gaps"
            )
        hits.append([a.lower() == b.lower() for a, b in zip(filled, hidden, strict=True)])
    right = sum(map(sum, hits))
    return Infilling(
        words=right / sum(map(len, hits)),
        captions=sum(map(all, hits)) / len(hits),
        per_caption=[sum(row) / len(row) for row in hits],
    )


def resampled(
    right: Int[np.ndarray, "photos systems"],
    asked: Int[np.ndarray, " photos"],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "samples systems"]:
    """Accuracies of bootstrap samples of photos, the same photos for every system.

    Photos are resampled, not words: the words of one photo's captions depend on each other.

    Args:
        right: hidden words that each system recovered, by photo.
        asked: hidden words, by photo.
        samples: bootstrap samples.
        seed: of the samples.

    Raises:
        InputError: nothing was hidden.
    """
    if not asked.sum():
        raise InputError("no word was hidden; pass captions with gaps")
    weights = np.random.default_rng(seed).multinomial(
        len(asked), np.full(len(asked), 1 / len(asked)), samples
    )
    return (weights @ right) / np.maximum(1, weights @ asked)[:, None]
