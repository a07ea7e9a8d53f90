"""What one captioner does for requests: their settings checked, their photos read, their captions and fillings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clearcap.config import (
    ALIASES,
    SamplingConfig,
    TextConfig,
    asks_for_length,
    changes,
    make,
    own_names,
)
from clearcap.data.images import PhotoBytes, open_image, to_square
from clearcap.data.threads import threads
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.infilling import (
    Blank,
    Infilled,
    Template,
    gives_most,
    infill_captions,
    layouts_of,
    parse_template,
)
from clearcap.pipeline.pipeline import SEEING, CaptionResult, checked_seed
from clearcap.service.batching import Job
from clearcap.service.settings import ServiceSettings

MAX_PLACEMENTS = 100_000  # of a template, before those that do not fit are left out


@dataclass(frozen=True)
class Asked:
    """How a request wants its captions.

    Attributes:
        sampling: all settings.
        how: those that the request names.
        seed: same seed, same captions.
        length: whether a length is asked for, which is then kept to the word.
    """

    sampling: SamplingConfig
    how: Mapping[str, Any]
    seed: int
    length: bool


class Work:
    """One captioner at the service of requests.

    Args:
        pipeline: the captioner.
        settings: their limits.
    """

    def __init__(self, pipeline: CaptionPipeline, settings: ServiceSettings) -> None:
        self.pipeline, self.settings = pipeline, settings
        text = make(TextConfig, pipeline.captioner.config.text, "text")
        self._keep_period = text.keep_period

    def asked(self, fields: Mapping[str, Any], *, texts: bool = False, **defaults: Any) -> Asked:
        """The seed and the sampling settings of a request.

        Args:
            fields: everything that is no photo.
            texts: whether values are a form's texts.
            defaults: settings where the request says nothing.

        Raises:
            InputError: with Python's own messages, or where they ask for more than this service gives.
        """
        how = own_names({name: value for name, value in fields.items() if name != "seed"})
        seed = fields.get("seed", 0)
        if texts:
            how = changes(SamplingConfig, [f"{ALIASES.get(name, name)}={how[name]}" for name in how])
            seed = int(seed) if str(seed).isdecimal() else seed
        how = defaults | how
        captioner = self.pipeline.captioner
        sampling = self.pipeline.sampling(**how)
        longest = max(sampling.length, sampling.min_length, sampling.max_length)
        if longest > captioner.length - 2:  # before lengths are listed
            raise InputError(
                f"length={longest}: captions of this model have at most {captioner.length - 2} words; "
                "ask for fewer"
            )
        seeing = sampling.select in SEEING and sampling.candidates > 1 and self.pipeline.clip is None
        if seeing and self.pipeline.scorer is None:
            raise InputError(
                f"select={sampling.select} needs a CLIP or a scorer: start the service with --clip FOLDER"
            )
        self._check_calls(sampling, sampling.candidates)
        return Asked(sampling, how, checked_seed(seed), asks_for_length(how))

    def _check_calls(self, sampling: SamplingConfig, rows: int) -> None:
        """Raise InputError where a photo asks for more of the denoiser than this service gives."""
        steps = len(self.pipeline.captioner.sampler(sampling).times) - 1
        calls = rows * steps * (2 if sampling.guidance else 1) * (1 + sampling.refine)
        if calls > self.settings.max_calls:
            raise InputError(
                f"candidates, steps, guidance and refine ask for {calls:,} rows of the denoiser, and this service "
                f"gives {self.settings.max_calls:,} a photo; ask for fewer candidates or steps"
            )

    def square(self, photo: PhotoBytes) -> np.ndarray:
        """A photo as the captioner sees it, uint8 [size, size, 3]. Raises InputError."""
        size = self.pipeline.image_size
        image = open_image(photo, at_least=size, max_pixels=self.settings.max_pixels)
        return to_square(image, size)

    def caption_job(self, photo: np.ndarray, asked: Asked, deadline: float) -> Job:
        """A photo to caption."""
        key = ("caption", asked.sampling, asked.seed, asked.length)
        run = partial(self._caption, asked=asked)
        return Job(key, run, photo, deadline, rows=asked.sampling.candidates)

    def _caption(self, jobs: Sequence[Job], asked: Asked) -> list[CaptionResult]:
        photos = [job.photo for job in jobs]
        results = caption_together(
            self.pipeline, photos, self.settings.batch_size, seed=asked.seed, **asked.how
        )
        for result in results:
            _check_finite(result.confidence)
        return results

    def template(self, text: Any) -> Template:
        """A template of a request. Raises InputError."""
        if not isinstance(text, str) or not text:
            raise InputError("no template; pass a caption with blanks, such as 'a ___ in a ___'")
        if len(text) > 1_000:
            raise InputError(f"template: {len(text):,} characters are more than 1,000; shorten it")
        found = parse_template(text)
        ranges = [part.high - part.low + 1 for part in found.parts if isinstance(part, Blank)]
        if math.prod(ranges) > MAX_PLACEMENTS:
            raise InputError("template: its ranges of words are too wide together; narrow them")
        return found

    def fill_job(self, photo: np.ndarray, template: Template, asked: Asked, deadline: float) -> Job:
        """A photo whose caption has blanks. Raises InputError where the template cannot be met."""
        pipeline = self.pipeline
        layouts = layouts_of(
            template, pipeline.tokenizer, pipeline.captioner.length, keep_period=self._keep_period
        )
        rows = len(layouts) * asked.sampling.candidates
        self._check_calls(asked.sampling, rows)
        key = ("fill", asked.sampling, asked.seed)
        return Job(key, partial(self._fill, asked=asked), photo, deadline, rows=rows, payload=template)

    def _fill(self, jobs: Sequence[Job], asked: Asked) -> list[Infilled]:
        pipeline = self.pipeline
        with pipeline.captioner.inference():
            image = pipeline.captioner.encode_image(pipeline.pixels([job.photo for job in jobs]))
        filled = infill_captions(
            pipeline.captioner,
            pipeline.tokenizer,
            image,
            [job.payload for job in jobs],
            seed=asked.seed,
            sampling=asked.sampling,
        )
        for one in filled:
            _check_finite(one.confidence)
        return filled

    def fill_defaults(self, template: Template) -> dict[str, float]:
        """Settings of filling in where the request names none (``CaptionPipeline.fill``)."""
        return {"guidance": 0.0} if gives_most(template) else {}


def lanes_of(pipeline: CaptionPipeline) -> int:
    """Batches that are captioned at once where enough photos wait: one a thread on a CPU, which gains more than all
    threads over one batch (LOG.md)."""
    return threads() if str(pipeline.device) == "cpu" else 1


def caption_together(
    pipeline: CaptionPipeline, photos: Sequence[np.ndarray], batch_size: int, **how: Any
) -> list[CaptionResult]:
    """Photos shared out among the lanes if there is one for each, else captioned by all threads together.

    Args:
        pipeline: the captioner.
        photos: squashed, uint8 [size, size, 3].
        batch_size: photos of a forward pass at most.
        how: seed and sampling settings.

    Raises:
        InputError: the settings cannot be.
    """
    lanes = lanes_of(pipeline) if len(photos) >= lanes_of(pipeline) else 1
    size = min(batch_size, math.ceil(len(photos) / lanes))
    results = []
    for result in pipeline.stream(photos, batch_size=size, at_once=lanes, **how):
        if isinstance(result, InputError):
            raise result
        results.append(result)
    return results


def _check_finite(confidence: float) -> None:
    if not math.isfinite(confidence):
        raise InputError("these sampling settings lead to no number; choose smaller ones")
