"""Neighbour captions: those of other photos that agree most with what is said of a photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from clearcap.metrics.cider import DocumentFrequency, weights_of
from clearcap.metrics.ngrams import ORDERS, Counted, count
from clearcap.metrics.words import agreement_words

SOME = 20
"""Times the captions wanted: those are nearly always among so many, and sorting all took most of the time."""


def with_neighbours(
    captions: Sequence[Sequence[str]], wanted: int, advance: Callable[[int], None] = lambda photos: None
) -> list[tuple[str, ...]]:
    """Each photo's captions, and behind them its neighbour captions; arguments as for ``neighbour_captions``."""
    more = neighbour_captions(captions, wanted, advance) if wanted else [[] for _ in captions]
    return [(*own, *others) for own, others in zip(captions, more, strict=True)]


def neighbour_captions(
    captions: Sequence[Sequence[str]], wanted: int, advance: Callable[[int], None] = lambda photos: None
) -> list[list[str]]:
    """For every photo the captions of other photos that agree most with its own, best first.

    Agreement is CIDEr (Vedantam et al. 2015, section 3) with the photo's own captions as references and the corpus's
    document frequency. A person wrote each, and one caption serves many photos, so that a captioner has fewer ways of
    saying a thing to learn.

    Args:
        captions: of each photo.
        wanted: captions per photo; none repeats another or one of the photo's own.
        advance: told of every photo that is done.

    Returns:
        At most ``wanted`` captions per photo, fewer where no more agree at all.
    """
    flat = [caption for group in captions for caption in group]
    ends = np.cumsum([0, *map(len, captions)])
    tokens = agreement_words(flat)
    said = [" ".join(words) for words in tokens]
    agreements = cider_with_all(count(tokens), DocumentFrequency.of(captions, agreement_words))
    found = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        own = set(said[start:end])
        agreement = agreements(start, end)
        best: dict[str, int] = {}
        for i in best_first(agreement, SOME * wanted):
            if len(best) == wanted or agreement[i] <= 0:
                break
            if said[i] not in own:
                best.setdefault(said[i], i)
        found.append([flat[i] for i in best.values()])
        advance(1)
    return found


def best_first(agreement: Float[np.ndarray, " captions"], some: int) -> Iterator[int]:
    """Captions from the one that agrees most on, the earlier of equals first; those behind ``some`` only if asked."""
    some = min(some, len(agreement))
    behind = agreement < np.partition(agreement, -some)[-some]
    for part in (np.flatnonzero(~behind), np.flatnonzero(behind)):
        yield from part[np.argsort(-agreement[part], kind="stable")].tolist()


def cider_with_all(
    counted: Counted, frequency: DocumentFrequency
) -> Callable[[int, int], Float[np.ndarray, " captions"]]:
    """A function of the first and the end of some captions: CIDEr of every caption with those as its references.

    Per order the mean cosine of tf-idf vectors, then the mean of the orders, in [0, 1]. The captions that hold an
    n-gram are looked up in an inverted index, so that only pairs with something in common cost anything.
    """
    captions = len(counted.lengths)
    tables = []
    for rows, weight in zip(counted.rows, weights_of(counted, frequency), strict=True):
        value = rows.count * weight[rows.gram]
        norm = np.sqrt(np.bincount(rows.owner, value**2, captions))
        unit = value / np.maximum(norm, 1e-12)[rows.owner]
        by_gram = np.argsort(rows.gram, kind="stable")
        first = np.searchsorted(rows.gram[by_gram], np.arange(rows.grams + 1))
        tables.append((rows, unit, rows.owner[by_gram], unit[by_gram], first))

    def agreement(start: int, end: int) -> Float[np.ndarray, " captions"]:
        total = np.zeros(captions)
        for rows, unit, holders, held, first in tables:
            mine = slice(*np.searchsorted(rows.owner, [start, end]))
            grams, place = np.unique(rows.gram[mine], return_inverse=True)
            centre = np.bincount(place, unit[mine], len(grams))
            sizes = first[grams + 1] - first[grams]
            # Rows of the index that hold one of these n-grams: ranges of `sizes`, one behind the other.
            listed = np.repeat(first[grams + 1] - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
            total += np.bincount(holders[listed], held[listed] * np.repeat(centre, sizes), captions)
        return total / (max(1, end - start) * len(ORDERS))

    return agreement
