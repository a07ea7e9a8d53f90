"""Wrappers of the denoiser, each adding one behaviour: a photo, guidance, fixed latents, self-conditioning, a callback."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearcap.denoiser.interface import Denoiser
from clearcap.diffusion.noise import Noise, infilled
from clearcap.errors import InputError
from clearcap.layers import Context, join_contexts

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, x_self, t [batch]) -> predicted x0."""
Step = Callable[[Tensor, int], Tensor]
"""(x_t, t) -> predicted x0: what solvers call."""
Callback = Callable[[int, int, dict[str, Tensor]], dict[str, Tensor]]
"""(step, time, {"latents": predicted x0, "noisy": x_t}) -> what to change: {} or {"latents": another x0}."""


@dataclass(frozen=True)
class FixedLatents:
    """Latents known before a caption is sampled: given words, or what follows a caption of a given length.

    They are clean, as LaDiC re-inserts fixed words.

    Attributes:
        latent: known latents; anything elsewhere.
        mask: where they are known.
    """

    latent: Float[Tensor, "captions length dim"]
    mask: Bool[Tensor, "captions length"]

    def wrap(self, denoise: Denoise, rows: Tensor | None = None) -> Denoise:
        """The denoiser of some rows of the batch (``None``: of all), which fills in the other positions only."""
        if rows is None:
            return infilled(denoise, self.latent, self.mask)
        return infilled(denoise, self.latent[rows], self.mask[rows])


def conditioned(denoiser: Denoiser, noise: Noise, context: Context) -> Denoise:
    """The denoiser with its photos bound; latents stay in float32, whatever the network computes in."""
    dtype = context[0][0].dtype

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        output = denoiser(x_t.to(dtype), x_self.to(dtype), t, context)
        return noise.x0(output.to(x_t.dtype), x_t, t)

    return denoise


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """(1 + scale) * conditional - scale * unconditional (Ho & Salimans 2021; LaDiC, eq. 5)."""
    return conditional + scale * (conditional - unconditional)


def guided(denoiser: Denoiser, noise: Noise, context: Context, scale: float) -> Denoise:
    """Classifier-free guidance: the photo's and the null branch run as one batch.

    Args:
        denoiser: the network.
        noise: its parameterisation.
        context: of the photos.
        scale: guidance scale w; 0 costs no second branch.
    """
    if scale == 0:
        return conditioned(denoiser, noise, context)
    photos = context[0][0].shape[0]
    twice = conditioned(denoiser, noise, join_contexts(context, denoiser.null_context(), photos=photos))

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        both = twice(torch.cat((x_t, x_t)), torch.cat((x_self, x_self)), torch.cat((t, t)))
        with_photo, without = both.chunk(2)
        return guide(with_photo, without, scale)

    return denoise


def between(inside: Denoise, outside: Denoise, low: int, high: int) -> Denoise:
    """One denoiser at noise levels ``low <= t <= high``, another elsewhere.

    With guidance inside only, elsewhere one branch runs (Kynkäänniemi et al. 2024). All captions of a call are at
    the same level.
    """

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return (inside if low <= int(t[0]) <= high else outside)(x_t, x_self, t)

    return denoise


def without_self_conditioning(denoise: Denoise) -> Denoise:
    """The same denoiser, never shown its previous prediction."""

    def forgetful(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, torch.zeros_like(x_self), t)

    return forgetful


def shifted(denoise: Denoise, offset: int, last: int) -> Denoise:
    """The denoiser told a time later by ``offset``, at most ``last`` (Chen et al. 2022's asymmetric intervals)."""

    def told_later(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, x_self, (t + offset).clamp_max(last))

    return told_later


def called_back(denoise: Denoise, callback: Callback) -> Denoise:
    """Shows every prediction to ``callback``, which may change it (diffusers' ``callback_on_step_end``).

    Raises:
        InputError: the callback returns something else than a dictionary, or latents of another shape.
    """
    steps = itertools.count()

    def denoise_and_call(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x_t, x_self, t)
        changed = callback(next(steps), int(t[0]), {"latents": x0, "noisy": x_t})
        if not isinstance(changed, dict):
            raise InputError("callback_on_step_end returned no dictionary; return {} to change nothing")
        latents = changed.get("latents", x0)
        if latents.shape != x0.shape:
            raise InputError(
                f"callback_on_step_end returned latents of shape {tuple(latents.shape)}, not {tuple(x0.shape)}"
            )
        return latents

    return denoise_and_call


def self_conditioned(denoise: Denoise, x0: Tensor | None = None) -> Step:
    """What solvers call: the denoiser shown its own previous prediction at every step (Chen et al. 2022).

    Args:
        denoise: any denoiser.
        x0: prediction that the first call is shown; default none (zeros).
    """
    last = [x0] if x0 is not None else []

    def step(x_t: Tensor, t: int) -> Tensor:
        x_self = last.pop() if last else torch.zeros_like(x_t)
        level = torch.full((len(x_t),), t, dtype=torch.int64, device=x_t.device)
        last.append(denoise(x_t, x_self, level))
        return last[0]

    return step
