"""Classifier-free guidance: the photo's branch and the null branch, run as one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clearcap.denoiser import Denoiser, join_views
from clearcap.diffusion import Noise
from clearcap.layers import KeysValues

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, x_self, t [batch]) -> predicted x0."""


def conditioned(denoiser: Denoiser, noise: Noise, view: list[KeysValues]) -> Denoise:
    """The denoiser looking at its photos."""

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return noise.x0(denoiser(x_t, x_self, t, view), x_t, t)

    return denoise


def guided(denoiser: Denoiser, noise: Noise, view: list[KeysValues], scale: float) -> Denoise:
    """(1 + scale) * with photo - scale * without (Ho & Salimans 2021; LaDiC, eq. 5), both in one batch.

    Args:
        denoiser: the network.
        noise: its parameterisation.
        view: keys and values of the photos.
        scale: guidance scale w; 0 costs no second branch.
    """
    if scale == 0:
        return conditioned(denoiser, noise, view)
    photos = view[0][0].shape[0]
    both = join_views(view, denoiser.see_nothing(), photos=photos)

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        output = denoiser(torch.cat((x_t, x_t)), torch.cat((x_self, x_self)), torch.cat((t, t)), both)
        with_photo, without = noise.x0(output, torch.cat((x_t, x_t)), torch.cat((t, t))).chunk(2)
        return with_photo + scale * (with_photo - without)

    return denoise
