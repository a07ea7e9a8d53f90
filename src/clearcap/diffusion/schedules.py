"""Noise schedules: how much of the caption is left at each time."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from clearcap import registry

Shares = Float[np.ndarray, " steps"]
"""alpha-bar at t = 0 .. steps - 1, in float32."""


def linear(steps: int) -> Shares:
    """alpha-bar of LaDiC's code: beta = [0, linspace(1e-4, 0.02)], so index t counts applied noisings."""
    beta = np.concatenate(([0.0], np.linspace(1e-4, 0.02, steps))).astype(np.float32)
    return np.cumprod(1 - beta)[:steps]


def cosine(steps: int, shift: float = 0.008) -> Shares:
    """alpha-bar = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + s)/(1 + s)) (Nichol & Dhariwal 2021, eq. 17)."""
    t = np.arange(steps) / steps
    f = np.cos((t + shift) / (1 + shift) * math.pi / 2) ** 2
    return (f / f[0]).astype(np.float32)


def cosine_float32(steps: int, shift: float = 0.008) -> Shares:
    """``cosine`` as both papers' code computes it; float32 moves sqrt(1 - alpha-bar) by up to 5e-6."""
    t = np.arange(steps, dtype=np.float32)
    f = np.cos(math.pi / 2 * (t / steps + shift) / (1 + shift)) ** 2
    return f / f[0]


def sqrt(steps: int, shift: float = 1e-4) -> Shares:
    """alpha-bar = 1 - sqrt(t/T + s) (Diffusion-LM, Li et al. 2022, appendix A)."""
    t = np.arange(steps) / steps
    return np.maximum(1 - np.sqrt(t + shift), 1e-5).astype(np.float32)


def alpha_bars(name: str, steps: int) -> Shares:
    """The named schedule's cumulative signal share at t = 0 .. steps - 1.

    Raises:
        InputError: the name is unknown.
    """
    return np.asarray(registry.find("noise schedule", name)(steps), dtype=np.float32)
