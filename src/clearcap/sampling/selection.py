"""Choosing among the captions drawn for one photo: by agreement, by confidence, by similarity to the photo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from clearcap import registry
from clearcap.config import number, text, texts
from clearcap.errors import InputError
from clearcap.metrics import bleu, cider
from clearcap.metrics.cider import DocumentFrequency

Values = TypeVar("Values")
UTILITIES: dict[str, Callable[..., np.ndarray]] = {"bleu": bleu.pairwise, "cider": cider.pairwise}


@dataclass(frozen=True)
class Candidates:
    """Captions sampled for one photo, and what they may be judged by.

    Attributes:
        captions: the candidates.
        confidences: each one's word probabilities.
        similarity: each one's similarity to the photo.
        utility: what minimum Bayes risk compares them by.
        frequency: document frequency of utility "cider"; without it all n-grams weigh the same.
        remembered: how many of them, at the end, people said of remembered photos that are like this one.
        function_words: words that a caption may well say twice; empty: any word.
        length_penalty: of the confidence (see ``by_confidence``).
    """

    captions: Sequence[str]
    confidences: Sequence[Sequence[float]] | None = None
    similarity: Sequence[float] | None = None
    utility: str = "bleu"
    frequency: DocumentFrequency | None = None
    remembered: int = 0
    function_words: frozenset[str] = frozenset()
    length_penalty: float = 1.0


def by_agreement(candidates: Candidates) -> Sequence[float]:
    """Minimum Bayes risk: each candidate's expected utility (see ``expected_utility``)."""
    return expected_utility(candidates.captions, candidates.utility, candidates.frequency)


def by_confidence(candidates: Candidates) -> Sequence[float]:
    """The geometric mean of each candidate's word probabilities; a length penalty other than 1 moves it with length.

    The sum of logarithms is divided by words ** penalty, as beam search does it (Wu et al. 2016; transformers'
    ``length_penalty``). The surest of several captions is a short one; above 1 longer ones are favoured.
    """
    confidences = _given(candidates.confidences, "confidences")
    beyond = candidates.length_penalty - 1
    return [
        mean ** (1 / max(1, len(words)) ** beyond)
        for mean, words in zip(mean_confidences(confidences), confidences, strict=True)
    ]


def by_neighbours(candidates: Candidates) -> Sequence[float]:
    """The baseline that no captioner is needed for: what people said of the most similar remembered photos alone.

    Of their captions that which agrees most with the others is chosen (Devlin et al. 2015).

    Raises:
        InputError: nothing is remembered.
    """
    own = len(candidates.captions) - candidates.remembered
    if not candidates.remembered:
        raise InputError(
            "select=neighbours chooses among remembered captions; give a memory (clearcap remember)"
        )
    said = expected_utility(candidates.captions[own:], candidates.utility, candidates.frequency)
    return [-1.0] * own + said


def by_agreement_and_similarity(candidates: Candidates) -> Sequence[float]:
    """Minimum Bayes risk and similarity to the photo, each in units of its deviation among the candidates, added up."""
    both = (by_agreement(candidates), by_similarity(candidates))
    return sum(_standardised(np.asarray(values, float)) for values in both).tolist()  # type: ignore[union-attr]


def by_confidence_and_similarity(candidates: Candidates) -> Sequence[float]:
    """The logarithm of the mean confidence, and similarity to the photo twice (LOG.md)."""
    sure = np.log(np.maximum(by_confidence(candidates), 1e-12))
    return (sure + 2 * np.asarray(by_similarity(candidates), float)).tolist()


def by_similarity(candidates: Candidates) -> Sequence[float]:
    """Each candidate's similarity to the photo."""
    return _given(candidates.similarity, "similarity")


def expected_utility(
    captions: Sequence[str], utility: str = "bleu", frequency: DocumentFrequency | None = None
) -> list[float]:
    """Expected utility of each candidate, the others standing for what the photo's caption may be.

    The candidate of the highest value has minimum Bayes risk (Kumar and Byrne 2004; Diffusion-LM, Li et al.
    2022, section 5.2). A caption sampled twice counts twice: samples are weighed by how likely they are.

    Args:
        captions: candidates for one photo.
        utility: "bleu" (smoothed sentence BLEU-4) or "cider" (CIDEr-D).
        frequency: document frequency for "cider"; without it all n-grams weigh the same.

    Returns:
        The mean utility against the other candidates, in the utility's own scale; 0 for a lone candidate.
    """
    table = _utilities(captions, utility, frequency)
    others = max(1, len(captions) - 1)
    return ((table.sum(1) - np.diagonal(table)) / others).tolist()


def mean_confidences(confidences: Sequence[Sequence[float]]) -> list[float]:
    """The geometric mean of each caption's word probabilities.

    A mean, not a product, so that a short caption has no advantage; 0 for a caption without words.
    """
    return [
        float(np.exp(np.log(np.maximum(words, 1e-12)).mean())) if len(words) else 0.0 for words in confidences
    ]


def choose(
    captions: Sequence[str],
    method: str = "mbr",
    *,
    confidences: Sequence[Sequence[float]] | None = None,
    similarity: Sequence[float] | None = None,
    utility: str = "bleu",
    frequency: DocumentFrequency | None = None,
    remembered: int = 0,
    function_words: frozenset[str] = frozenset(),
    length_penalty: float = 1.0,
) -> int:
    """Index of the best candidate (see ``best_of``).

    Args:
        captions: candidates for one photo.
        method: a selection rule: "mbr", "confidence", "similarity", "mbr-and-similarity",
            "confidence-and-similarity", "neighbours", or one that a plug-in registers: a function of ``Candidates``
            that gives each one's value, the higher the better.
        confidences: each candidate's word probabilities, for "confidence" and for ties.
        similarity: photo-caption similarity of each candidate from a CLIP or a scorer, for "similarity".
        utility: of "mbr".
        frequency: of "mbr" with "cider".
        remembered: how many of the candidates, at the end, are of remembered photos.
        function_words: words that a caption may well say twice; empty: any word.
        length_penalty: of "confidence"; above 1 favours longer candidates.

    Raises:
        InputError: no candidates, an unknown rule, or one without what it judges by.
    """
    candidates = Candidates(
        captions, confidences, similarity, utility, frequency, remembered, function_words, length_penalty
    )
    return best_of(judge(candidates, method), candidates)


def judge(candidates: Candidates, method: str = "mbr") -> list[float]:
    """What a selection rule gives each candidate; arguments and errors as for ``choose``."""
    captions = texts("captions", candidates.captions)
    if not captions:
        raise InputError("no candidates to choose from; sample at least one caption")
    values = registry.find("selection rule", text("method", method))(candidates)
    if len(values) != len(captions):
        raise InputError(f"{len(values)} values for {len(captions)} candidates; pass one for each")
    return [float(value) for value in values]


def best_of(values: Sequence[float], candidates: Candidates) -> int:
    """Index of the candidate that is chosen.

    That of the highest value among those that say no word of content twice, or among all where each does; of equals
    the one the model is surest of, then the first. Words of one caption are read each for itself, so that two places
    may say the same thing; what the rules judge by does not see that: a word said twice is sure of itself, and agrees
    with every caption that says it once.
    """
    trust = candidates.confidences
    sure = mean_confidences(trust) if trust is not None else [0.0] * len(values)
    words = candidates.function_words
    once = [not said_twice(caption.lower().split(), words) for caption in candidates.captions]
    return max(range(len(values)), key=lambda i: (once[i], round(values[i], 9), sure[i]))


def said_twice(words: Sequence[str], function_words: Collection[str]) -> set[str]:
    """The words of content that a caption says more than once; none where no function words are known.

    Args:
        words: the caption's, in lower case.
        function_words: those that a caption may well say twice: "a", "the", "of".
    """
    content = Counter(word for word in words if word not in function_words)
    return {word for word, times in content.items() if times > 1} if function_words else set()


def diverse(captions: Sequence[str], count: int, *, utility: str = "bleu", novelty: float = 0.5) -> list[int]:
    """Indices of a small set of captions that are good and unlike each other, best first.

    Greedy maximal marginal relevance (Carbonell and Goldstein 1998): each pick maximises (1 - novelty) *
    expected utility - novelty * greatest utility against those already picked. A caption is never picked twice
    while a different one is left.

    Args:
        captions: candidates for one photo.
        count: captions wanted.
        utility: "bleu" or "cider".
        novelty: 0 asks for the best captions only, 1 for the most different ones only.

    Raises:
        InputError: ``count`` exceeds the candidates, or ``novelty`` is no share.
    """
    captions, novelty = texts("captions", captions), number("novelty", novelty, float)
    if not 1 <= number("count", count, int) <= len(captions):
        raise InputError(f"{count} captions wanted of {len(captions)} candidates; sample more")
    if not 0 <= novelty <= 1:
        raise InputError(f"novelty={novelty} must lie between 0 and 1")
    table = _utilities(captions, utility, None)
    alike = np.maximum(table, table.T) / max(table.max(), 1e-12)
    value = (table.sum(1) - np.diagonal(table)) / max(1, len(captions) - 1) / max(table.max(), 1e-12)
    picked = [int(np.argmax(value))]
    while len(picked) < count:
        said = {captions[i] for i in picked}
        left = [i for i in range(len(captions)) if i not in picked]
        left = [i for i in left if captions[i] not in said] or left
        merit = [(1 - novelty) * value[i] - novelty * alike[i, picked].max() for i in left]
        picked.append(left[int(np.argmax(merit))])
    return picked


def _utilities(
    captions: Sequence[str], utility: str, frequency: DocumentFrequency | None
) -> Float[np.ndarray, "candidates candidates"]:
    if not isinstance(utility, str) or utility not in UTILITIES:
        raise InputError(f"unknown utility {utility!r}; choose one of {', '.join(UTILITIES)}")
    if utility == "cider":
        return cider.pairwise(captions, frequency)
    return bleu.pairwise(captions)


def _standardised(values: Float[np.ndarray, " candidates"]) -> Float[np.ndarray, " candidates"]:
    return (values - values.mean()) / max(float(values.std()), 1e-12)


def _given(values: Values | None, name: str) -> Values:
    if values is None:
        raise InputError(f"this choice among candidates judges by {name}; pass {name}=...")
    return values
