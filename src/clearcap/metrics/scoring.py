"""Candidates and references to a table of scores, by the names of the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from clearcap.errors import InputError
from clearcap.metrics import bleu, cider, rouge
from clearcap.metrics.ngrams import count_corpus
from clearcap.metrics.tokenizer import tokenize

PhotoId: TypeAlias = str | int
NAMES = ("BLEU", "ROUGE-L", "CIDEr-D")
JAVA_NAMES = ("METEOR", "SPICE")


@dataclass(frozen=True)
class Scores:
    """What `score` returns; nothing is rounded.

    Attributes:
        corpus: metric ("BLEU-1" .. "BLEU-4", "ROUGE-L", "CIDEr-D", ...) -> score of the corpus.
        per_caption: metric -> photo -> score of its candidate.
        bleu_statistics: rows of `bleu.statistics` in the order of the photos, or None without BLEU; what
            bootstrap samples of corpus BLEU are computed from.
    """

    corpus: dict[str, float]
    per_caption: dict[str, dict[PhotoId, float]]
    bleu_statistics: Int[np.ndarray, "photos 10"] | None = None

    @property
    def photos(self) -> list[PhotoId]:
        return list(next(iter(self.per_caption.values()), {}))


def score(
    hypotheses: Mapping[PhotoId, str],
    references: Mapping[PhotoId, Sequence[str]],
    names: Sequence[str] = NAMES,
    frequency: cider.DocumentFrequency | None = None,
) -> Scores:
    """Score one candidate caption a photo against its references.

    Args:
        hypotheses: photo -> candidate (raw text; it is tokenised here).
        references: photo -> references, at least one; photos without a candidate are an error.
        names: any of BLEU, ROUGE-L, CIDEr-D and, where Java is installed, METEOR and SPICE.
        frequency: document frequency for CIDEr-D; by default that of the references given.

    Raises:
        InputError: unknown metric, no photos, photos that differ, a caption that is not text, no references,
            or Java missing for METEOR or SPICE.
    """
    for name in names:
        if name not in NAMES + JAVA_NAMES:
            raise InputError(f"metric {name!r} is unknown; choose from {', '.join(NAMES + JAVA_NAMES)}")
    check(hypotheses, references)
    photos = list(hypotheses)
    candidates = tokenize([hypotheses[photo] for photo in photos])
    flat = iter(tokenize(list(chain.from_iterable(references[photo] for photo in photos))))
    grouped = [[next(flat) for _ in references[photo]] for photo in photos]

    corpus: dict[str, float] = {}
    per_caption: dict[str, dict[PhotoId, float]] = {}

    def keep(name: str, total: float, values: Float[np.ndarray, " photos"]) -> None:
        corpus[name] = float(total)
        per_caption[name] = dict(zip(photos, values.tolist(), strict=True))

    table = None
    counted = count_corpus(candidates, grouped)
    for name in names:
        if name == "BLEU":
            table = bleu.statistics(counted)
            totals, values = bleu.from_statistics(table.sum(0)), bleu.from_statistics(table)
            for column, order in enumerate(bleu.NAMES):
                keep(order, totals[column], values[:, column])
        elif name == "CIDEr-D":
            keep(name, *cider.cider_d(counted, frequency))
        elif name == "ROUGE-L":
            keep(name, *rouge.rouge_l(candidates, grouped))
        else:
            from clearcap.metrics import java

            keep(name, *java.SCORERS[name](candidates, grouped))
    return Scores(corpus, per_caption, table)


def check(hypotheses: Mapping[PhotoId, str], references: Mapping[PhotoId, Sequence[str]]) -> None:
    """Refuse inputs that would give a wrong score or a late error.

    Raises:
        InputError: what is wrong, with the first photo concerned.
    """
    if not hypotheses:
        raise InputError("there is no candidate to score; pass at least one photo with its caption")
    for photo in hypotheses:
        if photo not in references:
            raise InputError(
                f"photo {photo!r} has a candidate but no references; score photos of the reference file only"
            )
    missing = [photo for photo in references if photo not in hypotheses]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(references)} photos have references but no candidate "
            f"(first: {missing[0]!r}); "
            "caption every photo, or pass the references of the captioned ones only"
        )
    for photo, caption in hypotheses.items():
        if not isinstance(caption, str):
            raise InputError(
                f"the candidate of photo {photo!r} is {type(caption).__name__}, not text; pass one string"
            )
    for photo, captions in references.items():
        if isinstance(captions, str) or not len(captions):
            raise InputError(
                f"the references of photo {photo!r} must be a list of at least one caption, not {captions!r}"
            )
        for caption in captions:
            if not isinstance(caption, str):
                raise InputError(
                    f"a reference of photo {photo!r} is {type(caption).__name__}, not text; pass strings"
                )
