"""Noise: how a clean latent is corrupted, and what the network's output says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError
from clearcap.layers import Latents

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, x_self, t) -> the network's raw prediction."""


@dataclass(frozen=True)
class Noise:
    """The corruption x_t = a(t) x0 + s(t) eps, a = sqrt(alpha-bar), s = factor * sqrt(1 - alpha-bar) (LaDiC, eq. 1).

    Attributes:
        alpha_bar: signal share at t = 0 .. T-1.
        factor: the noise factor k; above 1 hides more of the caption at every t.
        prediction_type: what the network outputs, "x0", "epsilon" or "v".
    """

    alpha_bar: Float[Tensor, " steps"]
    factor: float = 1.0
    prediction_type: str = "x0"

    def __post_init__(self) -> None:
        if self.prediction_type not in ("x0", "epsilon", "v"):
            raise InputError(f"unknown prediction {self.prediction_type!r}; choose x0, epsilon or v")
        if not self.factor > 0:
            raise InputError(f"noise factor {self.factor} must be positive")

    @property
    def steps(self) -> int:
        return len(self.alpha_bar)

    def scales(self, t: Int[Tensor, "..."] | int) -> tuple[Tensor, Tensor]:
        """a(t) and s(t), shaped to multiply latents [..., length, dim]."""
        table = self.alpha_bar if isinstance(t, int) else self.alpha_bar.to(t.device)
        ab = table[t][..., None, None]
        return ab.sqrt(), self.factor * (1 - ab).sqrt()

    def add(self, x0: Tensor, t: Int[Tensor, "..."] | int, eps: Tensor) -> Tensor:
        """q(x_t | x0) with the given standard normal draw."""
        a, s = self.scales(t)
        return a * x0 + s * eps

    def target(self, x0: Tensor, t: Int[Tensor, "..."], eps: Tensor) -> Tensor:
        """What the network should output; v = (a eps - s x0) / sqrt(a^2 + s^2) (Salimans & Ho 2022, for factor 1)."""
        if self.prediction_type == "x0":
            return x0
        if self.prediction_type == "epsilon":
            return eps
        a, s = self.scales(t)
        return (a * eps - s * x0) / (a * a + s * s).sqrt()

    def x0(self, output: Tensor, x_t: Tensor, t: Int[Tensor, "..."]) -> Tensor:
        """The clean latent that the network's output stands for."""
        if self.prediction_type == "x0":
            return output
        a, s = self.scales(t)
        if self.prediction_type == "epsilon":
            return (x_t - s * output) / a.clamp_min(1e-4)  # alpha-bar nears 0 at t = T-1
        square = a * a + s * s
        return (a * x_t - s * square.sqrt() * output) / square

    def epsilon(self, x0: Tensor, x_t: Tensor, t: Int[Tensor, "..."] | int) -> Tensor:
        """The noise that leads from ``x0`` to ``x_t``."""
        a, s = self.scales(t)
        return (x_t - a * x0) / s.clamp_min(1e-8)


def infilled(predict: Predict, latent: Latents, mask: Bool[Tensor, "batch length"]) -> Predict:
    """A denoiser of captions whose latents are known where the mask says so, in training and in sampling alike.

    Known latents replace what the network sees, what it is conditioned on, and what it predicts, so solvers lead the
    other positions only.
    """
    known = mask[..., None]

    def predict_rest(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        x0 = predict(torch.where(known, latent, x_t), torch.where(known, latent, x_self), t)
        return torch.where(known, latent.to(x0.dtype), x0)

    return predict_rest


def make_noise(schedule: str, steps: int, factor: float = 1.0, prediction_type: str = "x0") -> Noise:
    """Noise from a named schedule."""
    return Noise(alpha_bars(schedule, steps), factor, prediction_type)
