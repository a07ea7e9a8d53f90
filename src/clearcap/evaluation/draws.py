"""Captions of a split under many sampling settings from one encoding of its photos, kept batch by batch on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clearcap.captioner.network import Generated
from clearcap.config import SamplingConfig
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.evaluation.journal import whole_lines
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.refine import turning_point
from clearcap.sampling.selection import mean_confidences
from clearcap.sampling.solvers import times_of
from clearcap.text.tokenizer import join_words


@dataclass(frozen=True)
class Batch:
    """What was drawn for a batch of photos at one setting.

    Attributes:
        photos: their ids.
        alone: the caption of each, drawn alone.
        candidates: the captions of each, drawn together; empty where only one was asked for.
        confidence: of each candidate, the geometric mean of its words' probabilities.
        seconds: spent on drawing alone and together.
    """

    photos: tuple[str, ...]
    alone: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    confidence: tuple[tuple[float, ...], ...]
    seconds: tuple[float, float]

    def to_line(self) -> str:
        """The batch as a line of JSON, with its end."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: bytes, where: str) -> Batch:
        """What `to_line` wrote. Raises InputError."""
        try:
            record = json.loads(line)
            return cls(
                tuple(record["photos"]),
                tuple(record["alone"]),
                tuple(tuple(captions) for captions in record["candidates"]),
                tuple(tuple(values) for values in record["confidence"]),
                (float(record["seconds"][0]), float(record["seconds"][1])),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{where} is damaged ({error}); delete the file to draw again") from error


def encoded(
    pipeline: CaptionPipeline,
    photos: Sequence[CaptionedPhoto],
    file: Path | None,
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda photos: None,
) -> tuple[Tensor, float]:
    """Image tokens of photos, from the file where they are kept already.

    Args:
        pipeline: its encoder is used.
        photos: what to encode.
        file: where they are kept (safetensors, float32); None keeps nothing.
        batch_size: photos at once.
        progress: told how many photos each batch added.

    Returns:
        Tokens [photos, tokens, dim] and the milliseconds a photo took, decoding included.

    Raises:
        InputError: a photo cannot be read, or the file is another's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if file is not None and file.is_file():
        try:
            kept = load_file(file)
            tokens, ms = kept["tokens"], float(kept["ms"])
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{file} cannot be read ({error}); delete it to encode again") from error
        if len(tokens) != len(photos):
            raise InputError(f"{file} holds {len(tokens)} photos, not {len(photos)}; choose another folder")
        progress(len(photos))
        return tokens.to(pipeline.captioner.device, pipeline.captioner.dtype), ms
    started = time.perf_counter()
    tokens = pipeline.encode_all(
        (photo.image for photo in photos), batch_size=batch_size, progress=progress
    ).clone()  # out of inference mode's reach
    ms = 1000 * (time.perf_counter() - started) / len(photos)
    if file is not None:
        part = file.with_name(file.name + ".part")
        save_file({"tokens": tokens.float().cpu(), "ms": torch.tensor(ms)}, part)
        os.replace(part, file)
    return tokens, ms


def draw_all(
    pipeline: CaptionPipeline,
    tokens: Tensor,
    photos: Sequence[str],
    sampling: SamplingConfig,
    file: Path | None,
    *,
    batch_size: int,
    seed: int,
    progress: Callable[[int], None] = lambda photos: None,
) -> list[Batch]:
    """Draw captions of every photo at one setting, going on after the batches the file holds.

    Each batch is drawn twice, so that both are timed beside each other: one caption a photo, then, where
    ``sampling.candidates`` says so, several.

    Args:
        pipeline: draws.
        tokens: image tokens of the photos.
        photos: their ids.
        sampling: how; nothing is chosen among the candidates.
        file: where batches are kept; None keeps nothing.
        batch_size: photos at once.
        seed: same seed, same captions.
        progress: told how many photos each batch added.

    Raises:
        InputError: the file holds other photos, or is damaged.
    """
    groups = [
        range(start, min(start + batch_size, len(photos))) for start in range(0, len(photos), batch_size)
    ]
    done = read_batches(file)
    if len(done) > len(groups):
        raise InputError(f"{file} holds captions of more photos; choose another folder or delete it")
    for group, batch in zip(groups[: len(done)], done, strict=True):
        if batch.photos != tuple(photos[i] for i in group):
            raise InputError(f"{file} holds captions of other photos; choose another folder or delete it")
        progress(len(group))
    for group in groups[len(done) :]:
        batch = _draw(pipeline, tokens[group.start : group.stop], [photos[i] for i in group], sampling, seed)
        done.append(batch)
        if file is not None:
            with file.open("ab") as lines:
                lines.write(batch.to_line().encode())
        progress(len(group))
    return done


def read_batches(file: Path | None) -> list[Batch]:
    """The whole lines of a file; a last line that was cut short is taken off it.

    Raises:
        InputError: a whole line is damaged.
    """
    return [
        Batch.from_line(line, f"{file} line {number}")
        for number, line in enumerate(whole_lines(file), start=1)
    ]


def calls_of(sampling: SamplingConfig, levels: int) -> int:
    """Calls of the denoiser that a setting makes, early exit aside.

    Args:
        sampling: the setting.
        levels: noise levels of the model.
    """
    visited = times_of(sampling.spacing, levels, sampling.steps)
    back = sampling.refine * turning_point(visited, levels, sampling.refine_time) if sampling.refine else 0
    return len(visited) - 1 + back


def _draw(
    pipeline: CaptionPipeline, tokens: Tensor, photos: Sequence[str], sampling: SamplingConfig, seed: int
) -> Batch:
    def generate(candidates: int) -> tuple[list[list[tuple[list[str], list[float]]]], float]:
        started = time.perf_counter()
        how = dataclasses.replace(sampling, candidates=candidates)
        read = read_drawn(pipeline, pipeline.captioner.generate(image=tokens, seed=seed, sampling=how))
        return read, time.perf_counter() - started

    alone, seconds = generate(1)
    together, more = generate(sampling.candidates) if sampling.candidates > 1 else ([], 0.0)
    return Batch(
        tuple(photos),
        tuple(join_words(words) for [(words, _)] in alone),
        tuple(tuple(join_words(words) for words, _ in drawn) for drawn in together),
        tuple(tuple(mean_confidences([trust for _, trust in drawn])) for drawn in together),
        (seconds, more),
    )


def read_drawn(pipeline: CaptionPipeline, drawn: Generated) -> list[list[tuple[list[str], list[float]]]]:
    """Words and their probabilities of each photo's candidates."""
    return [[(list(one.words), list(one.confidence)) for one in photo] for photo in pipeline.decode(drawn)]


def median_ms(batches: Sequence[Batch], together: bool) -> float:
    """Milliseconds a photo of the middle batch, drawn alone or together."""
    return float(np.median([1000 * batch.seconds[together] / len(batch.photos) for batch in batches]))
