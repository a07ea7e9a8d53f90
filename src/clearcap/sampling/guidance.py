"""Wrappers of the denoiser, classifier-free guidance first: the photo's and the null branch run as one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.denoiser.cross_attention import join_views
from clearcap.diffusion.noise import Noise, clamped
from clearcap.layers import KeysValues


@runtime_checkable
class DenoiserLike(Protocol):
    """A denoiser: ``Denoiser``, ``FusedDenoiser``, or a graph that computes the same."""

    def see_nothing(self) -> list[KeysValues]:
        """The keys and values of no photo."""

    def __call__(self, x: Tensor, x_self: Tensor, t: Tensor, view: list[KeysValues]) -> Tensor:
        """The network's output for noisy latents, previous predictions and times, looking at photos."""


Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, x_self, t [batch]) -> predicted x0."""


@dataclass(frozen=True)
class Known:
    """Latents known before a caption is drawn: fixed words, or what follows a caption of a told length.

    They replace what the network sees, what it is conditioned on, and what it predicts, so solvers lead the other
    positions only. They are clean, as LaDiC re-inserts fixed words.

    Attributes:
        latent: known latents; anything elsewhere.
        fixed: where they are known.
    """

    latent: Float[Tensor, "captions length dim"]
    fixed: Bool[Tensor, "captions length"]

    def clamp(self, denoise: Denoise, rows: Tensor | None = None) -> Denoise:
        """The denoiser of some rows of the batch (``None``: of all), clamped."""
        if rows is None:
            return clamped(denoise, self.latent, self.fixed)
        return clamped(denoise, self.latent[rows], self.fixed[rows])


def view_rows(view: list[KeysValues], photos: Int[Tensor, " rows"]) -> list[KeysValues]:
    """The view of one caption per row, each looking at the given photo."""
    return [(k[photos], v[photos]) for k, v in view]


def conditioned(denoiser: DenoiserLike, noise: Noise, view: list[KeysValues]) -> Denoise:
    """The denoiser looking at its photos; latents stay in float32, whatever the network computes in."""
    dtype = view[0][0].dtype

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        output = denoiser(x_t.to(dtype), x_self.to(dtype), t, view)
        return noise.x0(output.to(x_t.dtype), x_t, t)

    return denoise


def guide(with_photo: Tensor, without: Tensor, scale: float) -> Tensor:
    """(1 + scale) * with photo - scale * without (Ho & Salimans 2021; LaDiC, eq. 5)."""
    return with_photo + scale * (with_photo - without)


def guided(denoiser: DenoiserLike, noise: Noise, view: list[KeysValues], scale: float) -> Denoise:
    """The denoiser with classifier-free guidance, its two branches in one batch.

    Args:
        denoiser: the network.
        noise: its parameterisation.
        view: keys and values of the photos.
        scale: guidance scale w; 0 costs no second branch.
    """
    if scale == 0:
        return conditioned(denoiser, noise, view)
    photos = view[0][0].shape[0]
    twice = conditioned(denoiser, noise, join_views(view, denoiser.see_nothing(), photos=photos))

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        both = twice(torch.cat((x_t, x_t)), torch.cat((x_self, x_self)), torch.cat((t, t)))
        with_photo, without = both.chunk(2)
        return guide(with_photo, without, scale)

    return denoise


def guided_in_part(
    denoiser: DenoiserLike,
    noise: Noise,
    view: list[KeysValues],
    scale: float,
    low: float,
    high: float,
) -> Denoise:
    """``guided`` at levels from ``low`` to ``high``, given as shares of T; elsewhere one branch runs."""
    everywhere = guided(denoiser, noise, view, scale)
    if scale == 0 or (low <= 0 and high >= 1):
        return everywhere
    last = noise.steps - 1
    return guided_between(
        everywhere, conditioned(denoiser, noise, view), round(low * last), round(high * last)
    )


def guided_between(guided: Denoise, plain: Denoise, low: int, high: int) -> Denoise:
    """Guidance at noise levels ``low <= t <= high`` only (Kynkäänniemi et al. 2024); elsewhere one branch runs.

    Args:
        guided: the denoiser with guidance.
        plain: the same without.
        low, high: levels; all captions of a call are at the same one.
    """

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return (guided if low <= int(t[0]) <= high else plain)(x_t, x_self, t)

    return denoise


def without_memory(denoise: Denoise) -> Denoise:
    """The same denoiser, never shown its previous prediction."""

    def forgetful(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, torch.zeros_like(x_self), t)

    return forgetful
