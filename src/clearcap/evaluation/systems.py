"""One captioner's captions of a split under several named settings, from one encoding of its photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.config import asks_for_length, sampling_with
from clearcap.data.records import Corpus
from clearcap.evaluation.samples import calls_of, captions_of, median_ms, sample_all
from clearcap.evaluation.scores import Scored, conventions, score_captions
from clearcap.evaluation.session import Session
from clearcap.metrics.scoring import NAMES


@dataclass(frozen=True)
class System:
    """A captioner under one setting.

    Attributes:
        captions: photo -> caption.
        scored: its figures.
        calls: of the network a caption takes, one after another, early exit aside.
        ms: milliseconds a photo of the middle batch, sampling alone: neither its encoding nor a choice.
        encode_ms: milliseconds that encoding a photo took, on average.
    """

    captions: dict[str, str]
    scored: Scored
    calls: int
    ms: float
    encode_ms: float


def sample_systems(
    model: str | Path | None,
    corpus: Corpus,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    out: Path,
    tokens: Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    metrics: Sequence[str] = (),
    progress: Callable[[int], None] = lambda photos: None,
) -> dict[str, System]:
    """Caption every photo of a split under each setting, and score the captions.

    Every batch is kept in ``out`` as it comes, and a killed evaluation goes on to the same captions.

    Args:
        model: folder or hub name; None or "default" is the bundled model.
        corpus: the split.
        settings: name, which names a file too -> fields of ``SamplingConfig`` that differ from the model's own.
        out: folder for the captions.
        tokens: file of the photos' image tokens, made where it is missing; default one in ``out``.
        limit: only the first photos of the split.
        batch_size: photos at once.
        seed: same seed, same captions.
        metrics: names of metrics to score by besides BLEU, ROUGE-L and CIDEr-D.
        progress: told how many photos of a setting are captioned, batch by batch.

    Raises:
        InputError: no such model, setting or metric, a photo that cannot be read, or a folder of another evaluation.
    """
    names = tuple(dict.fromkeys([*NAMES, *metrics]))
    described = conventions(names)
    with Session(model, corpus, out=out, limit=limit, batch_size=batch_size, how={}) as at:
        asked = {name: sampling_with(at.sampling, how) for name, how in settings.items()}
        kinds = {name: dataclasses.asdict(one) for name, one in asked.items()}
        at.claim(sampling=kinds, seed=seed, batch_size=batch_size, metrics=described)
        image, encode_ms = at.tokens(lambda photos: None, kept_in=tokens)
        levels = at.pipeline.captioner.objective.steps
        found: dict[str, System] = {}
        for name, sampling in asked.items():
            kept = asks_for_length(settings[name])
            batches = sample_all(
                at, image, sampling, f"{name}.jsonl", seed=seed, kept_lengths=kept, progress=progress
            )
            captions = dict(pair for batch in batches for pair in captions_of(at.pipeline, batch, sampling))
            scored = score_captions(captions, at.references, metrics=names, seed=seed)
            ms = median_ms(batches, sampling.candidates > 1)
            calls = sampling.candidates * calls_of(sampling, levels)
            found[name] = System(captions, scored, calls, ms, encode_ms)
        return found
