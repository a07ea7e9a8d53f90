"""Noise schedules: how much of the caption is left at each time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap import registry


def linear(steps: int) -> Float[Tensor, " steps"]:
    """alpha-bar of LaDiC's code: beta = [0, linspace(1e-4, 0.02)], so index t counts applied noisings."""
    beta = torch.cat((torch.zeros(1), torch.linspace(1e-4, 0.02, steps)))
    return torch.cumprod(1 - beta, 0)[:steps]


def cosine(steps: int, shift: float = 0.008) -> Float[Tensor, " steps"]:
    """alpha-bar = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + s)/(1 + s)) (Nichol & Dhariwal 2021, eq. 17)."""
    t = torch.arange(steps, dtype=torch.float64) / steps
    f = torch.cos((t + shift) / (1 + shift) * math.pi / 2) ** 2
    return (f / f[0]).float()


def cosine_float32(steps: int, shift: float = 0.008) -> Float[Tensor, " steps"]:
    """``cosine`` as both papers' code computes it; float32 moves sqrt(1 - alpha-bar) by up to 5e-6."""
    t = torch.arange(steps, dtype=torch.float32)
    f = torch.cos(math.pi / 2 * (t / steps + shift) / (1 + shift)) ** 2
    return f / f[0]


def sqrt(steps: int, shift: float = 1e-4) -> Float[Tensor, " steps"]:
    """alpha-bar = 1 - sqrt(t/T + s) (Diffusion-LM, Li et al. 2022, appendix A)."""
    t = torch.arange(steps, dtype=torch.float64) / steps
    return (1 - torch.sqrt(t + shift)).clamp_min(1e-5).float()


def alpha_bars(name: str, steps: int) -> Float[Tensor, " steps"]:
    """The named schedule's cumulative signal share at t = 0 .. steps - 1.

    Raises:
        InputError: the name is unknown.
    """
    alpha_bar: Tensor = registry.find("noise schedule", name)(steps)
    return alpha_bar
