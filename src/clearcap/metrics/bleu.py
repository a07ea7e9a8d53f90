"""BLEU-1..4 (Papineni et al. 2002) with the closest reference length, as COCO captioning scores it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from clearcap.metrics.interface import Captions, Pooled
from clearcap.metrics.ngrams import ORDERS, Corpus, count, shared_counts
from clearcap.metrics.words import agreement_words

NAMES = tuple(f"BLEU-{n}" for n in ORDERS)
TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap's guards: no match gives almost 0, never 0/0


def score_bleu(captions: Captions) -> Pooled:
    """Closest reference length, orders 1 to 4, not smoothed."""
    table = statistics(captions.counted)
    columns = zip(from_statistics(table.sum(0)).tolist(), from_statistics(table).T, strict=True)
    return Pooled(dict(zip(NAMES, columns, strict=True)), table, from_statistics)


def statistics(corpus: Corpus) -> Int[np.ndarray, "photos 10"]:
    """What BLEU of any selection of photos is made of, one row a photo.

    Columns: candidate length, closest reference length, n-grams proposed (n=1..4), n-grams matched (n=1..4).
    Sum the rows of a selection and pass the sum to `from_statistics`.
    """
    table = np.zeros((corpus.photos, 2 + 2 * len(ORDERS)), np.int64)
    table[:, 0] = corpus.hypothesis_lengths
    table[:, 1] = _closest_lengths(corpus)
    for n, hypotheses, references in zip(ORDERS, corpus.hypotheses, corpus.references, strict=True):
        table[:, 1 + n] = np.maximum(0, corpus.hypothesis_lengths - n + 1)
        allowed = references.merged(corpus.photo_of_reference)
        found, rows = allowed.locate(hypotheses.owner, hypotheses.gram)
        matched = np.minimum(hypotheses.count[found], allowed.count[rows])
        table[:, 5 + n] = np.bincount(hypotheses.owner[found], matched, corpus.photos)
    return table


def from_statistics(totals: Int[np.ndarray, "*batch 10"]) -> Float[np.ndarray, "*batch 4"]:
    """BLEU-1..4 (0 to 1) of summed rows of `statistics`; equal to pycocoevalcap's Bleu(4)."""
    length, reference = totals[..., :1].astype(float), totals[..., 1:2].astype(float)
    precisions = (totals[..., 6:] + TINY) / (totals[..., 2:6] + SMALL)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.array(ORDERS))
    ratio = (length + TINY) / (reference + SMALL)
    return means * np.exp(np.minimum(0.0, 1 - 1 / ratio))  # brevity penalty, 1 for long candidates


def bleu(corpus: Corpus) -> tuple[Float[np.ndarray, "4"], Float[np.ndarray, "photos 4"]]:
    """BLEU-1..4 of the corpus and of each photo's candidate."""
    table = statistics(corpus)
    return from_statistics(table.sum(0)), from_statistics(table)


def pairwise(candidates: Sequence[str]) -> Float[np.ndarray, "candidates candidates"]:
    """Utility of each candidate against each other one: smoothed sentence BLEU-4, in [0, 1].

    Entry (i, j) scores candidate i with candidate j as the only reference. Orders above 1 are smoothed by
    adding one to matches and proposals (Lin and Och 2004), so that short captions can be ranked; a pair
    without a common word scores 0. Meant for minimum Bayes risk over a few candidates.
    """
    captions = agreement_words(candidates)
    counted = count(captions)
    tables, lengths = counted.dense(), counted.lengths
    log_precision = np.zeros((len(captions), len(captions)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for n, table in zip(ORDERS, tables, strict=True):
            matched = shared_counts(table)
            proposed = np.maximum(0, lengths - n + 1)[:, None]
            smooth = float(n > 1)
            log_precision += np.log((matched + smooth) / (proposed + smooth))
        utilities = np.exp(log_precision / len(ORDERS) + np.minimum(0, 1 - lengths[None] / lengths[:, None]))
    return np.where(shared_counts(tables[0]) > 0, utilities, 0.0)


def _closest_lengths(corpus: Corpus) -> Int[np.ndarray, " photos"]:
    """Per photo, the reference length nearest to the candidate's; the shorter one where two are as near."""
    distance = np.abs(corpus.reference_lengths - corpus.hypothesis_lengths[corpus.photo_of_reference])
    order = np.lexsort((corpus.reference_lengths, distance, corpus.photo_of_reference))
    first = np.searchsorted(corpus.photo_of_reference, np.arange(corpus.photos))
    return corpus.reference_lengths[order[first]]
