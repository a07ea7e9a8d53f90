"""Captions of a split under many sampling settings from one encoding of its photos, kept batch by batch on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clearcap.config import SamplingConfig
from clearcap.evaluation.journal import Entry
from clearcap.evaluation.session import Session
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.refine import turning_point
from clearcap.sampling.selection import mean_confidences
from clearcap.sampling.solvers import times_of
from clearcap.text.tokenizer import DecodedCaption


@dataclass(frozen=True)
class Batch(Entry):
    """What was sampled for a batch of photos at one setting.

    Attributes:
        photos: their ids.
        alone: the caption of each, sampled alone.
        candidates: the captions of each, sampled together; empty where only one was asked for.
        confidence: of each candidate, the geometric mean of its words' probabilities.
        seconds: spent on sampling alone and together.
    """

    photos: tuple[str, ...]
    alone: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    confidence: tuple[tuple[float, ...], ...]
    seconds: tuple[float, float]

    @property
    def key(self) -> tuple[str, ...]:
        """The photos' ids."""
        return self.photos


def sample_all(
    at: Session,
    tokens: Float[Any, "photos tokens dim"],
    sampling: SamplingConfig,
    name: str,
    *,
    seed: int,
    kept_lengths: bool = False,
    progress: Callable[[int], None] = lambda photos: None,
) -> list[Batch]:
    """Sample captions of every photo at one setting, going on after the batches that are kept.

    Each batch is sampled twice, so that both are timed beside each other: one caption a photo, then, where
    ``sampling.candidates`` says so, several.

    Args:
        at: whose captioner is sampled from.
        tokens: image tokens of its photos.
        sampling: how; nothing is chosen among the candidates.
        name: of the file where batches are kept.
        seed: same seed, same captions.
        kept_lengths: whether captions of a given length are read as exactly so many words, as a pipeline reads those
            whose length was asked for.
        progress: told how many photos each batch added.

    Raises:
        InputError: the file holds other photos, or is damaged.
    """
    parts = [slice(start, start + at.batch_size) for start in range(0, len(at.photos), at.batch_size)]
    groups = [tuple(photo.id for photo in at.photos[part]) for part in parts]
    whole = at.pipeline.whole_words() if kept_lengths else None
    with at.journal(name, Batch, groups) as journal:
        progress(sum(len(batch.photos) for batch in journal.done))
        for place in journal.left:
            journal.append(_sample(at.pipeline, tokens[parts[place]], groups[place], sampling, seed, whole))
            progress(len(groups[place]))
    return journal.done


def calls_of(sampling: SamplingConfig, levels: int) -> int:
    """Calls of the denoiser that a setting makes, early exit aside.

    Args:
        sampling: the setting.
        levels: noise levels of the model.
    """
    visited = times_of(sampling.spacing, levels, sampling.steps)
    back = sampling.refine * turning_point(visited, levels, sampling.refine_time) if sampling.refine else 0
    return len(visited) - 1 + back


def _sample(
    pipeline: CaptionPipeline,
    tokens: Float[Any, "photos tokens dim"],
    photos: tuple[str, ...],
    sampling: SamplingConfig,
    seed: int,
    whole: Bool[np.ndarray, " vocab"] | None,
) -> Batch:
    def timed(candidates: int) -> tuple[list[list[DecodedCaption]], float]:
        started = time.perf_counter()
        how = dataclasses.replace(sampling, candidates=candidates)
        found = pipeline.captioner.generate(image=tokens, seed=seed, sampling=how, whole_words=whole)
        captions = pipeline.decode(found)
        return captions, time.perf_counter() - started

    alone, seconds = timed(1)
    together, more = timed(sampling.candidates) if sampling.candidates > 1 else ([], 0.0)
    return Batch(
        photos,
        tuple(caption.text for [caption] in alone),
        tuple(tuple(caption.text for caption in captions) for captions in together),
        tuple(tuple(mean_confidences([one.confidence for one in captions])) for captions in together),
        (seconds, more),
    )


def captions_of(
    pipeline: CaptionPipeline, batch: Batch, sampling: SamplingConfig
) -> Iterator[tuple[str, str]]:
    """Photos with the caption of each that a setting chooses."""
    if sampling.candidates == 1:
        yield from zip(batch.photos, batch.alone, strict=True)
        return
    for photo, captions, trust in zip(batch.photos, batch.candidates, batch.confidence, strict=True):
        words = [[p] * len(caption.split()) for p, caption in zip(trust, captions, strict=True)]
        yield photo, captions[pipeline.choose(captions, words, sampling)]


def median_ms(batches: Sequence[Batch], together: bool) -> float:
    """Milliseconds a photo of the middle batch, sampled alone or together."""
    return float(np.median([1000 * batch.seconds[together] / len(batch.photos) for batch in batches]))
