"""Choosing among the captions drawn for one photo: by agreement, by confidence, by similarity to the photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from clearcap.errors import InputError
from clearcap.metrics import bleu, cider
from clearcap.metrics.cider import DocumentFrequency

UTILITIES: dict[str, Callable[..., np.ndarray]] = {"bleu": bleu.pairwise, "cider": cider.pairwise}
METHODS = ("mbr", "confidence", "similarity")


def mbr(
    captions: Sequence[str], utility: str = "bleu", frequency: DocumentFrequency | None = None
) -> list[float]:
    """Expected utility of each candidate, the others standing for what the photo's caption may be.

    The candidate of the highest value has minimum Bayes risk (Kumar and Byrne 2004; Diffusion-LM, Li et al.
    2022, section 5.2). A caption drawn twice counts twice: draws are weighed by how likely they are.

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


def by_confidence(confidences: Sequence[Sequence[float]]) -> list[float]:
    """The model's confidence in each candidate: the geometric mean of its words' probabilities.

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
) -> int:
    """Index of the best candidate; the first of equals.

    Args:
        captions: candidates for one photo.
        method: "mbr", "confidence" or "similarity".
        confidences: each candidate's word probabilities, for "confidence" (and to break ties of "mbr").
        similarity: photo-caption similarity of each candidate from a CLIP, for "similarity".
        utility: of "mbr".
        frequency: of "mbr" with "cider".

    Raises:
        InputError: no candidates, an unknown method, or one without what it judges by.
    """
    if not captions:
        raise InputError("no candidates to choose from; draw at least one caption")
    if method not in METHODS:
        raise InputError(f"unknown choice {method!r} among candidates; choose one of {', '.join(METHODS)}")
    trust = by_confidence(confidences) if confidences is not None else None
    if method == "mbr":
        expected = mbr(captions, utility, frequency)
        ties = trust or [0.0] * len(captions)
        return max(range(len(captions)), key=lambda i: (round(expected[i], 9), ties[i]))
    values = _given(trust, "confidences") if method == "confidence" else _given(similarity, "similarity")
    if len(values) != len(captions):
        raise InputError(f"{len(values)} values for {len(captions)} candidates; pass one for each")
    return int(np.argmax(values))


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
    if not 1 <= count <= len(captions):
        raise InputError(f"{count} captions wanted of {len(captions)} candidates; draw more candidates")
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
    if utility not in UTILITIES:
        raise InputError(f"unknown utility {utility!r}; choose one of {', '.join(UTILITIES)}")
    if utility == "cider":
        return cider.pairwise(captions, frequency)
    return bleu.pairwise(captions)


def _given(values: Sequence[float] | None, name: str) -> Sequence[float]:
    if values is None:
        raise InputError(f"this choice among candidates judges by {name}; pass {name}=...")
    return values
