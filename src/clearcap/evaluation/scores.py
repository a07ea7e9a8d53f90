"""The figures of an evaluation: scores with intervals, how varied the captions are, and a control."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearcap.errors import InputError, RenamedWarning
from clearcap.metrics.diversity import diversity
from clearcap.metrics.ngrams import split_tokens
from clearcap.metrics.scoring import NAMES, Scores, description, score
from clearcap.metrics.significance import Comparison, Interval, compare, intervals
from clearcap.metrics.words import DESCRIPTIONS, tokenizer_of, words_by
from clearcap.sampling.selection import said_twice


@dataclass(frozen=True)
class Scored:
    """Scores of one set of captions.

    Attributes:
        scores: corpus and per caption, unrounded.
        intervals: metric -> lower and upper end of the 95% bootstrap interval (METEOR has none).
        diversity: distinct captions and their share, vocabulary, words a caption; self-CIDEr and mBLEU-4 of the
            candidates where several were sampled; the share that repeats a word of content, where function words
            are known.
    """

    scores: Scores
    intervals: dict[str, tuple[float, float]]
    diversity: dict[str, Any]


def conventions(names: Sequence[str], tokenizer: str = "ptb") -> dict[str, str]:
    """What the scores of these metrics mean, for manifests: the first line that each says of itself.

    BLEU, ROUGE-L and CIDEr-D equal pycocoevalcap 1.2's, where the tokeniser is "ptb".

    Raises:
        InputError: there is no such metric or tokeniser.
    """
    words_by(tokenizer)
    return {
        "tokenizer": DESCRIPTIONS[tokenizer],
        **{name: description(name) for name in names},
        "intervals": "95%, percentiles of 1,000 bootstrap samples of photos",
    }


def metrics_of(described: Mapping[str, str]) -> list[str]:
    """The metrics that `conventions` described."""
    return [name for name in described if name not in ("tokenizer", "intervals")]


def tokenizer_said(manifest: Mapping[str, Any], where: str) -> str:
    """The tokeniser that an evaluation's manifest says its scores have. Raises InputError where it is none of ours."""
    return tokenizer_of(manifest["metrics"], where)


def score_captions(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    candidates: Mapping[str, Sequence[str]] | None = None,
    drawn: Mapping[str, Sequence[str]] | None = None,
    metrics: Sequence[str] = NAMES,
    function_words: Collection[str] = (),
    seed: int = 0,
    tokenizer: str = "ptb",
) -> Scored:
    """Score captions.

    Args:
        captions: photo -> caption.
        references: photo -> references, for the same photos.
        candidates: photo -> all its candidates, where several were sampled.
        drawn: deprecated, the former name of ``candidates``.
        metrics: as for `clearcap.metrics.score`.
        function_words: words that a caption may well say twice, of the captions' language.
        seed: of the bootstrap.
        tokenizer: as for `clearcap.metrics.score`.

    Raises:
        InputError: as `clearcap.metrics.score`.
    """
    if drawn is not None:
        warnings.warn("drawn is called candidates", RenamedWarning, stacklevel=2)
        candidates = drawn
    scores = score(captions, references, metrics, tokenizer=tokenizer)  # type: ignore[arg-type]  # Mapping's keys are invariant
    found = intervals(scores, seed=seed)
    said = diversity([[caption] for caption in captions.values()], tokenizer=tokenizer)
    figures: dict[str, Any] = {
        "distinct": said.distinct_corpus,
        "distinct_share": said.distinct_corpus / said.captions,
        "vocabulary": said.vocabulary,
        "length": dataclasses.asdict(said.lengths),
    }
    if function_words:
        figures["repeating_share"] = repeating(captions, references, function_words, tokenizer)
    if candidates:
        among = diversity(list(candidates.values()), tokenizer=tokenizer)
        figures["candidates"] = {
            "distinct_share": among.distinct,
            "self_cider": among.self_cider,
            "m_bleu": among.m_bleu,
        }
    return Scored(scores, {name: (one.low, one.high) for name, one in found.items()}, figures)


def repeating(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    function_words: Collection[str],
    tokenizer: str = "ptb",
) -> float:
    """The share of captions that say a word of content twice which none of their photo's references says twice.

    Args:
        captions: photo -> caption.
        references: photo -> references, for the same photos.
        function_words: as for ``said_twice``.
        tokenizer: as for `clearcap.metrics.score`.
    """
    tokenize = words_by(tokenizer)
    count = 0
    for photo, caption in captions.items():
        own, *theirs = (
            said_twice(split_tokens(tokens), function_words)
            for tokens in tokenize([caption, *references[photo]])
        )
        count += bool(own.difference(*theirs))
    return count / len(captions)


@dataclass(frozen=True)
class Compared:
    """Two systems on the photos that both caption.

    Attributes:
        photos: how many those are.
        alone: photos that one of the systems captions alone, which are left out.
        corpus: each system's corpus scores, by metric.
        tests: the first against the second, by metric.
    """

    photos: int
    alone: tuple[str, ...]
    corpus: tuple[dict[str, float], dict[str, float]]
    tests: dict[str, Comparison]


def compare_captions(
    captions: Sequence[Mapping[str, str]],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    *,
    names: Sequence[str],
    seed: int = 0,
    tokenizer: str = "ptb",
) -> Compared:
    """Test two systems against each other, paired by photo.

    Args:
        captions: of each system, photo -> caption.
        references: photo -> references.
        metrics: as for `clearcap.metrics.score`.
        names: what error messages call the systems.
        seed: of the tests.
        tokenizer: as for `clearcap.metrics.score`.

    Raises:
        InputError: no photo is captioned by both.
    """
    held = {photo: texts for photo, texts in references.items() if all(photo in one for one in captions)}
    if not held:
        raise InputError(
            f"{names[0]} and {names[1]} caption no photo in common; compare captions of one split"
        )
    first, second = (
        score_captions(
            {photo: one[photo] for photo in held}, held, metrics=metrics, tokenizer=tokenizer
        ).scores
        for one in captions
    )
    return Compared(
        photos=len(held),
        alone=tuple(photo for photo in {**captions[0], **captions[1]} if photo not in held),
        corpus=(first.corpus, second.corpus),
        tests=compare([first], [second], seed=seed),
    )


def compare_scored(a: Sequence[Scored], b: Sequence[Scored], *, seed: int = 0) -> dict[str, Comparison]:
    """Two systems, metric by metric and photo by photo; several runs (seeds) of one are pooled.

    Raises:
        InputError: as `clearcap.metrics.significance.compare`.
    """
    return compare([one.scores for one in a], [one.scores for one in b], seed=seed)


def pooled_scores(runs: Sequence[Scored], *, seed: int = 0) -> dict[str, Interval]:
    """Scores of several runs of a system together, with 95% intervals over photos. Raises InputError."""
    return intervals([one.scores for one in runs], seed=seed)


def shuffled_scores(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    tokenizer: str = "ptb",
) -> dict[str, float]:
    """Corpus scores of the captions against other photos' references.

    What is left of a score then is what a caption earns without its photo.

    Args:
        captions: photo -> caption.
        references: photo -> references, for the same photos.
        seed: of the exchange; no photo keeps its own.
        tokenizer: as for `clearcap.metrics.score`.

    Raises:
        InputError: fewer than two photos.
    """
    photos = list(captions)
    if len(photos) < 2:
        raise InputError("one photo has no other photo's references; shuffle two or more")
    other = derangement(len(photos), seed)
    exchanged = {photo: references[photos[place]] for photo, place in zip(photos, other, strict=True)}
    return score(captions, exchanged, tokenizer=tokenizer).corpus  # type: ignore[arg-type]


def derangement(count: int, seed: int) -> list[int]:
    """A random cycle through all places, so that none is mapped to itself."""
    order = np.random.default_rng(seed).permutation(count)
    following = np.empty(count, int)
    following[order] = np.roll(order, -1)
    return following.tolist()
