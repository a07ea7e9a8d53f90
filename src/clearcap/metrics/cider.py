"""CIDEr-D (Vedantam et al. 2015, section 4): consensus of tf-idf weighted n-grams."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from clearcap.errors import InputError
from clearcap.metrics.ngrams import ORDERS, Corpus, Counted, count, words_of
from clearcap.metrics.tokenizer import tokenize

SIGMA = 6.0  # width of the length penalty
SCALE = 10.0


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many photos of a corpus each n-gram occurs (in any reference).

    Attributes:
        photos: photos in the corpus.
        counts: n-gram (words joined by spaces) -> photos.
    """

    photos: int
    counts: dict[str, int]

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> DocumentFrequency:
        """Count the references (raw text), one list a photo."""
        tokens = iter(tokenize(list(chain.from_iterable(references))))
        counts: Counter[str] = Counter()
        for captions in references:
            seen: set[str] = set()
            for _ in captions:
                words = words_of(next(tokens))
                seen.update(" ".join(words[i : i + n]) for n in ORDERS for i in range(len(words) - n + 1))
            counts.update(seen)
        return cls(len(references), dict(counts))

    def pruned(self) -> DocumentFrequency:
        """Without the n-grams of one photo, which weigh as much as those of none: the same scores, a fifth the size."""
        return DocumentFrequency(self.photos, {name: df for name, df in self.counts.items() if df > 1})

    def save(self, path: str | Path) -> None:
        """Write JSON (compressed where the name ends in .gz)."""
        text = json.dumps({"photos": self.photos, "counts": self.counts}, ensure_ascii=False)
        data = text.encode()
        Path(path).write_bytes(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)

    @classmethod
    def load(cls, path: str | Path) -> DocumentFrequency:
        """Read what `save` wrote.

        Raises:
            InputError: the file is not a document frequency file.
        """
        try:
            data = Path(path).read_bytes()
            content = json.loads(gzip.decompress(data) if Path(path).suffix == ".gz" else data)
            photos, counts = content["photos"], content["counts"]
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a document frequency file ({error}); write one with "
                "DocumentFrequency.of(...).save(...)"
            ) from error
        if not isinstance(photos, int) or photos < 1 or not isinstance(counts, dict):
            raise InputError(
                f"{path}: 'photos' must be a positive integer and 'counts' an object; write the file with "
                "DocumentFrequency.of(...).save(...)"
            )
        return cls(photos, counts)


def cider_d(
    corpus: Corpus, frequency: DocumentFrequency | None = None
) -> tuple[float, Float[np.ndarray, " photos"]]:
    """Mean CIDEr-D of the corpus and the score of each photo's candidate, in [0, 10].

    Equal to pycocoevalcap's Cider(n=4, sigma=6), including its measure of length (the number of bigrams).

    Args:
        corpus: counted candidates and references.
        frequency: document frequency; by default that of the corpus's own references.
    """
    log_photos = np.log(float(max(1, frequency.photos if frequency else corpus.photos)))
    idf = [log_photos - np.log(np.maximum(1.0, df)) for df in _frequencies(corpus, frequency)]
    photo = corpus.photo_of_reference
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
    counted = count(tokenize(candidates))
    lengths = np.maximum(0, counted.lengths - 1)
    total = np.zeros((len(candidates), len(candidates)))
    for table, weight in zip(counted.dense(), weights_of(counted, frequency), strict=True):
        vectors = table * weight
        norms = np.linalg.norm(vectors, axis=1)
        dot = (np.minimum(vectors[:, None], vectors[None]) * vectors[None]).sum(-1)
        products = norms[:, None] * norms[None]
        total += np.divide(dot, products, out=dot, where=products != 0)
    return SCALE * total * _length_penalty(lengths[:, None], lengths[None]) / len(ORDERS)


def weights_of(counted: Counted, frequency: DocumentFrequency | None) -> list[Float[np.ndarray, " grams"]]:
    """Per order, the inverse document frequency of every n-gram; 1 for all without a document frequency."""
    if frequency is None:
        return [np.ones(rows.grams) for rows in counted.rows]
    return [np.log(frequency.photos) - np.log(np.maximum(1, df)) for df in _looked_up(counted, frequency)]


def _length_penalty(a: Int[np.ndarray, ...], b: Int[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    return np.exp(-((a - b) ** 2) / (2 * SIGMA**2))


def _frequencies(corpus: Corpus, frequency: DocumentFrequency | None) -> list[Float[np.ndarray, " grams"]]:
    if frequency is not None:
        return _looked_up(corpus.counted, frequency)
    seen = (rows.merged(corpus.photo_of_reference) for rows in corpus.references)
    return [np.bincount(rows.gram, minlength=rows.grams).astype(float) for rows in seen]


def _looked_up(counted: Counted, frequency: DocumentFrequency) -> list[Float[np.ndarray, " grams"]]:
    return [np.array([frequency.counts.get(name, 0) for name in names], float) for names in counted.names()]
