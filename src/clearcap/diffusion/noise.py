"""Noise: how a clean latent is corrupted, and what the network's output says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, x_self, t) -> the network's raw prediction."""


@dataclass(frozen=True)
class Noise:
    """The corruption x_t = a(t) x0 + s(t) eps, a = sqrt(alpha-bar), s = factor * sqrt(1 - alpha-bar) (LaDiC, eq. 1).

    Attributes:
        alpha_bar: signal share at t = 0 .. T-1.
        factor: the noise factor k; above 1 hides more of the caption at every t.
        predicts: what the network outputs, "x0", "epsilon" or "v".
    """

    alpha_bar: Float[Tensor, " steps"]
    factor: float = 1.0
    predicts: str = "x0"

    def __post_init__(self) -> None:
        if self.predicts not in ("x0", "epsilon", "v"):
            raise InputError(f"unknown prediction {self.predicts!r}; choose x0, epsilon or v")
        if not self.factor > 0:
            raise InputError(f"noise factor {self.factor} must be positive")

    @property
    def steps(self) -> int:
        return len(self.alpha_bar)

    def scales(self, t: Int[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """a(t) and s(t), shaped to multiply latents [..., length, dim]."""
        ab = self.alpha_bar.to(t.device)[t][..., None, None]
        return ab.sqrt(), self.factor * (1 - ab).sqrt()

    def add(self, x0: Tensor, t: Int[Tensor, "..."], eps: Tensor) -> Tensor:
        """q(x_t | x0) with the given standard normal draw."""
        a, s = self.scales(t)
        return a * x0 + s * eps

    def target(self, x0: Tensor, t: Int[Tensor, "..."], eps: Tensor) -> Tensor:
        """What the network should output; v = (a eps - s x0) / sqrt(a^2 + s^2) (Salimans & Ho 2022, for factor 1)."""
        if self.predicts == "x0":
            return x0
        if self.predicts == "epsilon":
            return eps
        a, s = self.scales(t)
        return (a * eps - s * x0) / (a * a + s * s).sqrt()

    def x0(self, output: Tensor, x_t: Tensor, t: Int[Tensor, "..."]) -> Tensor:
        """The clean latent that the network's output stands for."""
        if self.predicts == "x0":
            return output
        a, s = self.scales(t)
        if self.predicts == "epsilon":
            return (x_t - s * output) / a.clamp_min(1e-4)  # alpha-bar nears 0 at t = T-1
        square = a * a + s * s
        return (a * x_t - s * square.sqrt() * output) / square

    def epsilon(self, x0: Tensor, x_t: Tensor, t: Int[Tensor, "..."]) -> Tensor:
        """The noise that leads from ``x0`` to ``x_t``."""
        a, s = self.scales(t)
        return (x_t - a * x0) / s.clamp_min(1e-8)


def clamped(
    predict: Predict, latent: Float[Tensor, "batch length dim"], fixed: Bool[Tensor, "batch length"]
) -> Predict:
    """A denoiser of captions that are known at some positions, in training and in sampling alike.

    Known latents replace what the network sees, what it is conditioned on, and what it predicts.
    """
    known = fixed[..., None]

    def predict_rest(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        x0 = predict(torch.where(known, latent, x_t), torch.where(known, latent, x_self), t)
        return torch.where(known, latent.to(x0.dtype), x0)

    return predict_rest


def make_noise(schedule: str, steps: int, factor: float = 1.0, predicts: str = "x0") -> Noise:
    """Noise from a named schedule."""
    return Noise(alpha_bars(schedule, steps), factor, predicts)
