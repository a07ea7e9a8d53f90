"""Candidates and references to a table of scores, by the names of the metrics."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import TypeAlias

import numpy as np

from clearcap.errors import InputError, RenamedWarning
from clearcap.metrics.frequency import DocumentFrequency
from clearcap.metrics.interface import Captions, Metric, Pooled
from clearcap.registry import find

PhotoId: TypeAlias = str | int
NAMES = ("BLEU", "ROUGE-L", "CIDEr-D")


@dataclass(frozen=True)
class Scores:
    """What `score` returns; nothing is rounded.

    Attributes:
        corpus: metric ("BLEU-1" .. "BLEU-4", "ROUGE-L", "CIDEr-D", ...) -> score of the corpus.
        per_caption: metric -> photo -> score of its candidate.
        pooled: the scores that are no mean over photos, with what bootstrap samples of them are computed from,
            in the order of the photos.
    """

    corpus: dict[str, float]
    per_caption: dict[str, dict[PhotoId, float]]
    pooled: tuple[Pooled, ...] = ()

    @property
    def photos(self) -> list[PhotoId]:
        """The photos, in the order of their scores."""
        return list(next(iter(self.per_caption.values()), {}))

    def pool_of(self, name: str) -> Pooled | None:
        """Where a score comes from that is no mean over photos."""
        return next((pool for pool in self.pooled if name in pool.scores), None)

    @property
    def bleu_statistics(self) -> np.ndarray | None:
        """Deprecated: the rows of BLEU in ``pooled``."""
        warnings.warn("bleu_statistics is the rows of BLEU's entry in pooled", RenamedWarning, stacklevel=2)
        pool = self.pool_of("BLEU-1")
        return None if pool is None else pool.rows


def score(
    hypotheses: Mapping[PhotoId, str],
    references: Mapping[PhotoId, Sequence[str]],
    names: Sequence[str] = NAMES,
    frequency: DocumentFrequency | None = None,
    tokenizer: str = "ptb",
) -> Scores:
    """Score one candidate caption a photo against its references.

    Args:
        hypotheses: photo -> candidate (raw text; it is tokenised here).
        references: photo -> references, at least one; photos without a candidate are an error.
        names: of metrics in the registry: BLEU, ROUGE-L, CIDEr-D, where Java is installed METEOR and SPICE, and
            those of plug-ins.
        frequency: document frequency for CIDEr-D; by default that of the references given.
        tokenizer: "ptb", COCO's, with which scores of English and Multi30k's languages are published, or "unicode", for
            languages that it does not fit. Scores of two tokenisers cannot be compared.

    Raises:
        InputError: unknown metric or tokenizer, no photos, photos that differ, a caption that is not text, no
            references, or Java missing for METEOR or SPICE.
    """
    metrics: list[Metric] = [find("metric", name) for name in names]
    check(hypotheses, references)
    photos = list(hypotheses)
    captions = Captions(
        [hypotheses[photo] for photo in photos], [references[photo] for photo in photos], frequency, tokenizer
    )
    corpus: dict[str, float] = {}
    per_caption: dict[str, dict[PhotoId, float]] = {}
    pooled: list[Pooled] = []
    for metric in metrics:
        found = metric(captions)
        if isinstance(found, Pooled):
            pooled.append(found)
            found = found.scores
        for name, (total, values) in found.items():
            corpus[name] = float(total)
            per_caption[name] = dict(zip(photos, values.tolist(), strict=True))
    return Scores(corpus, per_caption, tuple(pooled))


def description(name: str) -> str:
    """The first line that a metric says of itself. Raises InputError where there is no such metric."""
    line = (getdoc(find("metric", name)) or "not described").split("\n")[0]
    return line[:1].lower() + line[1:].removesuffix(".")


def check(hypotheses: Mapping[PhotoId, str], references: Mapping[PhotoId, Sequence[str]]) -> None:
    """Refuse inputs that would give a wrong score or a late error.

    Raises:
        InputError: what is wrong, with the first photo concerned.
    """
    for name, given in (("hypotheses", hypotheses), ("references", references)):
        if not isinstance(given, Mapping):
            raise InputError(f"the {name} are of type {type(given).__name__}; pass a dict by photo")
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
            f"(first: {missing[0]!r}); caption every photo, or pass the references of the captioned ones only"
        )
    for photo, caption in hypotheses.items():
        if not isinstance(caption, str):
            raise InputError(
                f"the candidate of photo {photo!r} is {type(caption).__name__}, not text; pass one string"
            )
    for photo, captions in references.items():
        if isinstance(captions, (str, bytes)) or not isinstance(captions, Collection) or not len(captions):
            raise InputError(
                f"the references of photo {photo!r} must be a list of at least one caption, not {captions!r}"
            )
        for caption in captions:
            if not isinstance(caption, str):
                raise InputError(
                    f"a reference of photo {photo!r} is {type(caption).__name__}, not text; pass strings"
                )
