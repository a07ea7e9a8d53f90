"""What a metric takes and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from clearcap.metrics.frequency import DocumentFrequency
from clearcap.metrics.ngrams import Corpus, count_corpus
from clearcap.metrics.words import words_by

Score: TypeAlias = tuple[float, Float[np.ndarray, " photos"]]  # of the corpus, and of each photo's candidate


@dataclass(frozen=True)
class Captions:
    """One candidate a photo and the references it is scored against, as raw text and as tokens.

    Attributes:
        candidates: of each photo.
        references: of each photo, one or more.
        frequency: how rare n-grams are, for CIDEr-D; None counts them in the references.
        tokenizer: what their words are (``clearcap.metrics.words``).
    """

    candidates: Sequence[str]
    references: Sequence[Sequence[str]]
    frequency: DocumentFrequency | None = None
    tokenizer: str = "ptb"

    @cached_property
    def candidate_tokens(self) -> list[list[str]]:
        """Of each candidate."""
        return words_by(self.tokenizer)(self.candidates)

    @cached_property
    def reference_tokens(self) -> list[list[list[str]]]:
        """Of each reference, by photo."""
        tokens = iter(words_by(self.tokenizer)(list(chain.from_iterable(self.references))))
        return [[next(tokens) for _ in captions] for captions in self.references]

    @cached_property
    def counted(self) -> Corpus:
        """The n-grams of all of them."""
        return count_corpus(self.candidate_tokens, self.reference_tokens)


@dataclass(frozen=True)
class Pooled:
    """Scores that are no mean over photos, and what those of a selection of photos are computed from.

    Attributes:
        scores: name -> score of the corpus and of each photo's candidate.
        rows: a row of numbers for each photo, or None where a selection cannot be scored without the metric; such
            scores have no bootstrap interval.
        of_sum: the scores of a selection, in the order of their names, from the sum of its rows.
    """

    scores: Mapping[str, Score]
    rows: np.ndarray | None = None
    of_sum: Callable[[np.ndarray], np.ndarray] = lambda rows: rows


Metric: TypeAlias = Callable[[Captions], Mapping[str, Score] | Pooled]
"""Scores by name. A plain mapping says that the score of the corpus is the mean over photos."""
