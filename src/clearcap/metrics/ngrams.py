"""N-grams of many captions as integers, counted once and shared by every n-gram metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

ORDERS = (1, 2, 3, 4)


def split_tokens(tokens: Sequence[str]) -> list[str]:
    """The words an n-gram is made of.

    pycocoevalcap's BLEU and CIDEr split a tokenised caption on any unicode space, so a token such as
    "1\\xa01/2" counts as two words there (ROUGE-L splits on the plain space only).
    """
    return " ".join(tokens).split()


@dataclass(frozen=True)
class Rows:
    """Distinct (owner, n-gram) pairs of one order with their counts, ascending by owner, then n-gram.

    An owner is a caption or a photo, an integer from 0.
    """

    owner: Int[np.ndarray, " rows"]
    gram: Int[np.ndarray, " rows"]
    count: Int[np.ndarray, " rows"]
    grams: int  # n-gram ids of this order are 0 .. grams-1

    def keys(self) -> Int[np.ndarray, " rows"]:
        """Each row's owner and n-gram as one number, ascending."""
        return self.owner * self.grams + self.gram

    def locate(
        self, owner: Int[np.ndarray, " queries"], gram: Int[np.ndarray, " queries"]
    ) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
        """Which queries are here: their positions among the queries, and their rows."""
        if not len(self.owner):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys, wanted = self.keys(), owner * self.grams + gram
        rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = np.flatnonzero(keys[rows] == wanted)
        return found, rows[found]

    def merged(self, owner_of: Int[np.ndarray, " owners"]) -> Rows:
        """The same n-grams under coarser owners, each with its largest count among the owners it joins."""
        keys = owner_of[self.owner] * self.grams + self.gram
        order = np.argsort(keys, kind="stable")
        distinct, first = np.unique(keys[order], return_index=True)
        largest = np.maximum.reduceat(self.count[order], first) if len(first) else self.count
        return Rows(distinct // max(1, self.grams), distinct % max(1, self.grams), largest, self.grams)


@dataclass(frozen=True)
class Grams:
    """The distinct n-grams of one order: n-gram k is ``shorter[k]`` followed by the word ``last[k]``."""

    shorter: Int[np.ndarray, " grams"]
    last: Int[np.ndarray, " grams"]


@dataclass(frozen=True)
class Counted:
    """The n-gram counts of some captions.

    Attributes:
        lengths: words in each caption.
        rows: per order, rows owned by captions.
    """

    lengths: Int[np.ndarray, " captions"]
    rows: tuple[Rows, ...]
    vocabulary: list[str] = field(repr=False)
    grams: tuple[Grams, ...] = field(repr=False)

    def names(self) -> list[list[str]]:
        """Per order, the text of every n-gram, its words joined by spaces."""
        named = [self.vocabulary]
        for grams in self.grams[1:]:
            pairs = zip(grams.shorter.tolist(), grams.last.tolist(), strict=True)
            named.append([f"{named[-1][a]} {self.vocabulary[b]}" for a, b in pairs])
        return named

    def dense(self) -> list[Int[np.ndarray, "captions grams"]]:
        """Per order, the counts as a matrix: for a handful of captions."""
        tables = [np.zeros((len(self.lengths), rows.grams), np.int64) for rows in self.rows]
        for table, rows in zip(tables, self.rows, strict=True):
            table[rows.owner, rows.gram] = rows.count
        return tables


@dataclass(frozen=True)
class Corpus:
    """Candidates (one a photo) and references (one or more a photo) over one shared set of n-gram ids.

    Attributes:
        hypothesis_lengths, reference_lengths: words in each caption.
        photo_of_reference: photo that each reference belongs to, ascending.
        hypotheses: per order, rows owned by photos.
        references: per order, rows owned by references.
    """

    hypothesis_lengths: Int[np.ndarray, " photos"]
    reference_lengths: Int[np.ndarray, " references"]
    photo_of_reference: Int[np.ndarray, " references"]
    hypotheses: tuple[Rows, ...]
    references: tuple[Rows, ...]
    counted: Counted = field(repr=False)

    @property
    def photos(self) -> int:
        """How many photos there are."""
        return len(self.hypothesis_lengths)

    @property
    def references_per_photo(self) -> Int[np.ndarray, " photos"]:
        """How many references each photo has."""
        return np.bincount(self.photo_of_reference, minlength=self.photos)


def count_corpus(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Corpus:
    """Count the n-grams of tokenised candidates and of their references.

    Args:
        hypotheses: tokens of the candidate of each photo.
        references: for each photo, the tokens of each of its references.
    """
    photos = len(hypotheses)
    counted = count(chain(hypotheses, chain.from_iterable(references)))
    captions = len(counted.lengths)
    return Corpus(
        hypothesis_lengths=counted.lengths[:photos],
        reference_lengths=counted.lengths[photos:],
        photo_of_reference=np.repeat(np.arange(photos), [len(refs) for refs in references]),
        hypotheses=tuple(_between(rows, 0, photos) for rows in counted.rows),
        references=tuple(_between(rows, photos, captions) for rows in counted.rows),
        counted=counted,
    )


def count(captions: Iterable[Sequence[str]]) -> Counted:
    """Count the n-grams of tokenised captions."""
    captions = list(captions)
    flat = list(chain.from_iterable(captions))
    if len(" ".join(flat).split()) != len(flat):  # some token holds a space: see `split_tokens`
        captions = [split_tokens(tokens) for tokens in captions]
        flat = list(chain.from_iterable(captions))
    lengths = np.array([len(words) for words in captions], np.int64)
    ids = {word: i for i, word in enumerate(dict.fromkeys(flat))}
    tokens = np.fromiter(map(ids.__getitem__, flat), np.int64, len(flat))
    caption = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))  # tokens until the caption ends
    words = max(1, len(ids))
    gram, starts, distinct = tokens, np.arange(len(tokens)), len(ids)
    rows, grams = [], [Grams(np.full(len(ids), -1), np.arange(len(ids)))]
    for n in ORDERS:
        if n > 1:
            keep = left[starts] >= n
            starts = starts[keep]
            pairs, gram = np.unique(gram[keep] * words + tokens[starts + n - 1], return_inverse=True)
            grams.append(Grams(pairs // words, pairs % words))
            distinct = len(pairs)
        keys, counts = np.unique(caption[starts] * max(1, distinct) + gram, return_counts=True)
        rows.append(Rows(keys // max(1, distinct), keys % max(1, distinct), counts, distinct))
    return Counted(lengths, tuple(rows), list(ids), tuple(grams))


def shared_counts(
    table: Int[np.ndarray, "captions grams"],
    weight: Float[np.ndarray, " grams"] | None = None,
    value: Float[np.ndarray, "captions grams"] | None = None,
) -> Float[np.ndarray, "captions captions"]:
    """What each caption (row) shares with each (column): the sum over n-grams of min(a, b) * weight * value of b.

    The minimum of two counts is the number of thresholds 1, 2, ... that both reach, so that a few matrix products do
    where comparing every pair would take captions * captions * n-grams of memory.

    Args:
        table: counts.
        weight: of each n-gram; default 1.
        value: what an n-gram is worth in the second caption; default 1.
    """
    total = np.zeros((len(table), len(table)))
    for times in range(1, int(table.max(initial=0)) + 1):
        reached = (table >= times).astype(float)
        total += (reached if weight is None else reached * weight) @ (
            reached if value is None else reached * value
        ).T
    return total


def _between(rows: Rows, start: int, stop: int) -> Rows:
    a, b = np.searchsorted(rows.owner, [start, stop])
    return Rows(rows.owner[a:b] - start, rows.gram[a:b], rows.count[a:b], rows.grams)
