"""CIDEr-D (Vedantam et al. 2015, section 4): consensus of tf-idf weighted n-grams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from clearcap.metrics.frequency import DocumentFrequency
from clearcap.metrics.interface import Captions, Score
from clearcap.metrics.ngrams import ORDERS, Corpus, Counted, count, shared_counts
from clearcap.metrics.words import agreement_words

SIGMA = 6.0  # width of the length penalty
SCALE = 10.0


def score_cider_d(captions: Captions) -> dict[str, Score]:
    """N 1 to 4, sigma 6, document frequency of the references scored."""
    return {"CIDEr-D": cider_d(captions.counted, captions.frequency)}


def cider_d(corpus: Corpus, frequency: DocumentFrequency | None = None) -> Score:
    """Mean CIDEr-D of the corpus and the score of each photo's candidate, in [0, 10].

    Equal to pycocoevalcap's Cider(n=4, sigma=6), including its measure of length (the number of bigrams).

    Args:
        corpus: counted candidates and references.
        frequency: document frequency; by default that of the corpus's own references.
    """
    photo = corpus.photo_of_reference
    if frequency is None:
        seen = (rows.merged(photo) for rows in corpus.references)
        idf = _idf((np.bincount(rows.gram, minlength=rows.grams) for rows in seen), corpus.photos)
    else:
        idf = weights_of(corpus.counted, frequency)
    lengths_h = np.maximum(0, corpus.hypothesis_lengths - 1)
    lengths_r = np.maximum(0, corpus.reference_lengths - 1)
    similarity = np.zeros(len(photo))
    for rows_h, rows_r, weight in zip(corpus.hypotheses, corpus.references, idf, strict=True):
        tfidf_h, tfidf_r = rows_h.count * weight[rows_h.gram], rows_r.count * weight[rows_r.gram]
        norm_h = np.sqrt(np.bincount(rows_h.owner, tfidf_h**2, corpus.photos))[photo]
        norm_r = np.sqrt(np.bincount(rows_r.owner, tfidf_r**2, len(photo)))
        found, at = rows_h.locate(photo[rows_r.owner], rows_r.gram)
        clipped = np.minimum(tfidf_h[at], tfidf_r[found]) * tfidf_r[found]
        dot = np.bincount(rows_r.owner[found], clipped, len(photo)).astype(np.float64)  # of nothing: integers
        norms = norm_h * norm_r
        similarity += np.divide(dot, norms, out=dot, where=norms != 0)
    similarity *= _length_penalty(lengths_h[photo], lengths_r) / len(ORDERS)
    scores = (
        SCALE * np.bincount(photo, similarity, corpus.photos) / np.maximum(1, corpus.references_per_photo)
    )
    return float(scores.mean()) if len(scores) else 0.0, scores


def pairwise(
    candidates: Sequence[str], frequency: DocumentFrequency | None = None
) -> Float[np.ndarray, "candidates candidates"]:
    """CIDEr-D of each candidate (row) with each candidate (column) as its only reference, in [0, 10].

    Args:
        candidates: a few captions.
        frequency: document frequency of a corpus; without one every n-gram weighs the same, since counting
            over the candidates themselves would silence exactly the n-grams they agree on.
    """
    counted = count(agreement_words(candidates))
    lengths = np.maximum(0, counted.lengths - 1)
    total = np.zeros((len(candidates), len(candidates)))
    for table, weight in zip(counted.dense(), weights_of(counted, frequency), strict=True):
        vectors = table * weight
        norms = np.linalg.norm(vectors, axis=1)
        dot = shared_counts(table, weight, vectors)
        products = norms[:, None] * norms[None]
        total += np.divide(dot, products, out=dot, where=products != 0)
    return SCALE * total * _length_penalty(lengths[:, None], lengths[None]) / len(ORDERS)


def weights_of(counted: Counted, frequency: DocumentFrequency | None) -> list[Float[np.ndarray, " grams"]]:
    """Per order, the inverse document frequency of every n-gram; 1 for all without a document frequency."""
    if frequency is None:
        return [np.ones(rows.grams) for rows in counted.rows]
    looked_up = (np.array([frequency.counts.get(name, 0) for name in names]) for names in counted.names())
    return _idf(looked_up, frequency.photos)


def _idf(counts: Iterable[Int[np.ndarray, " grams"]], photos: int) -> list[Float[np.ndarray, " grams"]]:
    return [np.log(max(1, photos)) - np.log(np.maximum(1, of_grams)) for of_grams in counts]


def _length_penalty(a: Int[np.ndarray, "..."], b: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.exp(-((a - b) ** 2) / (2 * SIGMA**2))
