"""A captioner's own few steps with gradients: what its sampler predicts at every call."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.captioner.generating import CaptionRequest
from clearcap.config import SamplingConfig
from clearcap.sampling.guidance import (
    FixedLatents,
    clamped,
    conditioned,
    self_conditioned,
    shifted,
    without_self_conditioning,
)
from clearcap.sampling.solvers import solver, times_of


class Rollout:
    """Runs the solver that captions are sampled with, unguided, and keeps the prediction of every call.

    No gradient passes from a call to the one before: each answers for its own prediction.
    """

    def __init__(self, captioner: Any, sampling: SamplingConfig) -> None:
        """Args:
        captioner: its denoiser is called.
        sampling: how captions are sampled.
        """
        self.denoiser = captioner.denoiser
        self.noise = captioner.noise(sampling.noise_factor)
        self.solve = solver(sampling.solver, sampling.eta)
        self.times = times_of(sampling.spacing, self.noise.steps, sampling.steps)
        self.start = sampling.start
        self.remembers = sampling.self_condition
        self.time_offset = sampling.time_offset
        self.told, self.tells = captioner.fixed_lengths, sampling.length > 0
        self.nearest, self.clamps = captioner.nearest_words, sampling.clamp

    @property
    def calls(self) -> int:
        """Calls of the denoiser, each of which draws noise once at most."""
        return len(self.times) - 1

    def __call__(
        self,
        image: Float[Tensor, "photos tokens image_dim"],
        lengths: Int[Tensor, " batch"],
        noise: Float[Tensor, "calls batch length dim"],
        generator: torch.Generator | None = None,
    ) -> list[Float[Tensor, "batch length dim"]]:
        """The clean latents that each call predicts.

        Args:
            image: photos; ``batch`` is photos * copies, photo-major.
            lengths: words of each caption, told to the denoiser where the sampling tells them.
            noise: standard normal draws, the first one that of the start.
            generator: draws the words that every other caption's predictions are clamped to; None: all are clamped
                to the most probable ones, as the sampler's are.
        """
        denoise = conditioned(self.denoiser, self.noise, self.denoiser.image_context(image))
        if not self.remembers:
            denoise = without_self_conditioning(denoise)
        known: FixedLatents | None = None
        if self.tells and (known := self.told([CaptionRequest(0, length=n) for n in lengths.tolist()])):
            denoise = known.wrap(denoise)
        predictions: list[Tensor] = []

        def call(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            predictions.append(denoise(x_t, x_self, t))
            return predictions[-1].detach()

        draws = iter(noise)
        start = self.start * next(draws)
        walk = shifted(call, self.time_offset, self.noise.steps - 1)
        if self.clamps:
            read = partial(half_drawn, generator=generator)
            walk = clamped(walk, lambda x0: self.nearest(x0, known, read), self.times[-2])
        step = self_conditioned(walk)
        self.solve(step, start, self.times, self.noise, lambda: next(draws))
        return predictions


def half_drawn(
    logits: Float[Tensor, "batch length vocab"], generator: torch.Generator | None
) -> Int[Tensor, "batch length"]:
    """The most probable words, or, of every other caption where there is a generator, words drawn by probability.

    A call that has been shown drawn words mends more than one that has only seen the likeliest.
    """
    ids = logits.argmax(-1)
    if generator is not None:
        chances = logits[1::2].softmax(-1)
        drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator)
        ids[1::2] = drawn.view(chances.shape[:2])
    return ids


def lengths_of(ids: Int[Tensor, "batch length"], special: Int[Tensor, " special"]) -> Int[Tensor, " batch"]:
    """How many words captions have: what stands before the first special token behind [CLS], one at least."""
    ended = torch.isin(ids[:, 1:-1], special.to(ids.device))
    return torch.where(ended.any(1), ended.int().argmax(1), ids.shape[1] - 2).clamp(min=1)
