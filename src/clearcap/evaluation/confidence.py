"""Whether confidence means something: how often words are right that the model is sure of, how it ranks captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float

from clearcap.config import TextConfig, make
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.evaluation.journal import Captioned
from clearcap.metrics.agreement import correlations
from clearcap.metrics.ngrams import split_tokens
from clearcap.metrics.words import words_by
from clearcap.pipeline.calibration import Calibration, fit, likeness
from clearcap.pipeline.pipeline import CaptionPipeline

BINS = 10
PLAIN = 0.98
"""Photos of which so many have tokens less alike keep more than half of their confidence."""
STEEP = 16
"""Widths of the fall of confidence in the distance from the median photo's likeness to that one's."""


@dataclass(frozen=True)
class Trust:
    """What the confidence of captions is worth.

    Attributes:
        calibration_error: expected calibration error of words: the mean distance between confidence and share of right
            words, over ten equal ranges of confidence, each weighed by its words (Guo et al. 2017). A word is right if
            a reference of the photo has it.
        rank_correlation: Spearman's, of the captions' confidence with their CIDEr-D.
    """

    calibration_error: float
    rank_correlation: float


def trust(
    captions: Sequence[Captioned],
    references: Mapping[str, Sequence[str]],
    scores: Mapping[str, float],
    tokenizer: str = "ptb",
) -> Trust | None:
    """Measure it; None where there are no words.

    Args:
        captions: with their words.
        references: photo -> references.
        scores: photo -> score of its caption, which confidence should rank like.
        tokenizer: as for `clearcap.metrics.score`.
    """
    sure, right = words_of(captions, references, tokenizer)
    if not len(sure):
        return None
    ranked = rank_correlation([one.confidence for one in captions], [scores[one.photo] for one in captions])
    return Trust(calibration_error(sure, right), ranked)


def words_of(
    captions: Sequence[Captioned], references: Mapping[str, Sequence[str]], tokenizer: str = "ptb"
) -> tuple[Float[np.ndarray, " words"], Float[np.ndarray, " words"]]:
    """The confidence of all words of captions, and 1 for each that a reference of its photo has, else 0."""
    tokenize = words_by(tokenizer)
    sure: list[float] = []
    right: list[float] = []
    for one in captions:
        said = {word for tokens in tokenize(list(references[one.photo])) for word in split_tokens(tokens)}
        sure += [p for _, p in one.words]
        right += [float(word.lower() in said) for word, _ in one.words]
    return np.array(sure), np.array(right)


def bins_of(confidence: Float[np.ndarray, " words"]) -> np.ndarray:
    """Which of ten equal ranges of confidence each word is in."""
    return np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1)


def calibration_error(confidence: Float[np.ndarray, " words"], right: Float[np.ndarray, " words"]) -> float:
    """Expected calibration error (see ``Trust``), of words that are right (1) or not (0)."""
    counts = np.maximum(np.bincount(bins_of(confidence), minlength=BINS), 1)
    gaps = np.bincount(bins_of(confidence), np.asarray(confidence) - right, BINS) / counts
    return float((np.abs(gaps) * counts).sum() / max(1, len(right)))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation (``clearcap.metrics.agreement``); 0 where one never varies."""
    _, spearman, _ = correlations(np.asarray(a, float), np.asarray(b, float))
    return spearman or 0.0


@dataclass(frozen=True)
class Calibrated:
    """What ``calibrate`` found.

    Attributes:
        calibration: that of the model.
        words: how many it was found on.
        before: calibration error of their probabilities.
        after: that of the confidence.
    """

    calibration: Calibration
    words: int
    before: float
    after: float


def calibrate(
    pipeline: CaptionPipeline,
    photos: Sequence[CaptionedPhoto],
    *,
    batch_size: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Find what a model's confidence means, on captioned photos that it did not learn from.

    Args:
        pipeline: the model, without a memory; captions as it does by itself. A calibration that it has plays no part.
        photos: with captions.
        batch_size: photos at once.
        seed: of the captions.
        progress: told photos done and photos in all.

    Raises:
        InputError: a photo cannot be read, or all words are right, or none is.
    """
    captioner, sampling = pipeline.captioner, pipeline.sampling()
    captions: list[Captioned] = []
    alike: list[float] = []
    left = iter(photos)
    while batch := list(islice(left, batch_size)):
        image = pipeline.encode_all([photo.image for photo in batch], batch_size=batch_size)
        said = pipeline.decode(captioner.generate(image=image, seed=seed, sampling=sampling))
        for photo, tokens, candidates in zip(batch, image, said, strict=True):
            texts, trust = [one.text for one in candidates], [one.confidence for one in candidates]
            best = candidates[pipeline.choose(texts, trust, sampling, image=tokens)]
            words = tuple(zip(best.words, best.confidence, strict=True))
            captions.append(Captioned(photo.id, best.text, 0.0, words=words))
        with captioner.inference():
            alike += likeness(captioner.image_context(image))
        progress(len(captions), len(photos))
    if not captions:
        raise InputError("no photos to calibrate on; give a corpus that has some")
    tokenizer = make(TextConfig, captioner.config.text, "text").words
    sure, right = words_of(captions, {photo.id: photo.captions for photo in photos}, tokenizer)
    slope, offset = fit(sure, right)
    middle, most = np.quantile(alike, (0.5, PLAIN)).tolist()
    found = Calibration(slope, offset)
    if most < 1 and most > middle:
        width = (most - middle) / STEEP
        found = dataclasses.replace(found, alike=most, width=width)
    return Calibrated(
        found, len(sure), calibration_error(sure, right), calibration_error(found.right(sure), right)
    )
