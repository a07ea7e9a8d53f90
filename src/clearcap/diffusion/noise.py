"""Noise: how a clean latent is corrupted, and what the network's output says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int

from clearcap.arrays import Array, Latents, Mask, cast, namespace
from clearcap.diffusion.schedules import alpha_bars
from clearcap.errors import InputError

Predict = Callable[[Array, Array, Array], Array]
"""(x_t, x_self, t) -> the network's raw prediction."""


@dataclass(frozen=True)
class Noise:
    """The corruption x_t = a(t) x0 + s(t) eps, a = sqrt(alpha-bar), s = factor * sqrt(1 - alpha-bar) (LaDiC, eq. 1).

    Attributes:
        alpha_bar: signal share at t = 0 .. T-1.
        factor: the noise factor k; above 1 hides more of the caption at every t.
        prediction_type: what the network outputs, "x0", "epsilon" or "v".
    """

    alpha_bar: Float[Array, " steps"]
    factor: float = 1.0
    prediction_type: str = "x0"

    def __post_init__(self) -> None:
        if self.prediction_type not in ("x0", "epsilon", "v"):
            raise InputError(f"unknown prediction {self.prediction_type!r}; choose x0, epsilon or v")
        if not self.factor > 0:
            raise InputError(f"noise factor {self.factor} must be positive")

    @property
    def steps(self) -> int:
        """T, how many noise levels there are."""
        return len(self.alpha_bar)

    def scales(self, t: Int[Array, "..."] | int) -> tuple[Array, Array]:
        """a(t) and s(t), shaped to multiply latents [..., length, dim]."""
        xp = namespace(self.alpha_bar)
        table = self.alpha_bar if isinstance(t, int) else xp.asarray(self.alpha_bar, device=t.device)
        ab = table[t][..., None, None]
        return xp.sqrt(ab), self.factor * xp.sqrt(1 - ab)

    def add(self, x0: Array, t: Int[Array, "..."] | int, eps: Array) -> Array:
        """q(x_t | x0) with the given standard normal draw."""
        a, s = self.scales(t)
        return a * x0 + s * eps

    def target(self, x0: Array, t: Int[Array, "..."], eps: Array) -> Array:
        """What the network should output; v = (a eps - s x0) / sqrt(a^2 + s^2) (Salimans & Ho 2022, for factor 1)."""
        if self.prediction_type == "x0":
            return x0
        if self.prediction_type == "epsilon":
            return eps
        a, s = self.scales(t)
        return (a * eps - s * x0) / namespace(a).sqrt(a * a + s * s)

    def x0(self, output: Array, x_t: Array, t: Int[Array, "..."]) -> Array:
        """The clean latent that the network's output stands for."""
        if self.prediction_type == "x0":
            return output
        a, s = self.scales(t)
        if self.prediction_type == "epsilon":
            return (x_t - s * output) / namespace(a).clip(a, 1e-4, None)  # alpha-bar nears 0 at t = T-1
        square = a * a + s * s
        return (a * x_t - s * namespace(square).sqrt(square) * output) / square

    def epsilon(self, x0: Array, x_t: Array, t: Int[Array, "..."] | int) -> Array:
        """The noise that leads from ``x0`` to ``x_t``."""
        a, s = self.scales(t)
        return (x_t - a * x0) / namespace(s).clip(s, 1e-8, None)


def infilled(predict: Predict, latent: Latents, mask: Mask) -> Predict:
    """A denoiser of captions whose latents are known where the mask says so, in training and in sampling alike.

    Known latents replace what the network sees, what it is conditioned on, and what it predicts, so solvers lead the
    other positions only.
    """
    xp, known = namespace(latent), mask[..., None]

    def predict_rest(x_t: Array, x_self: Array, t: Array) -> Array:
        x0 = predict(xp.where(known, latent, x_t), xp.where(known, latent, x_self), t)
        return xp.where(known, cast(latent, x0.dtype), x0)

    return predict_rest


def make_noise(
    schedule: str, steps: int, factor: float = 1.0, prediction_type: str = "x0", device: Any = "cpu"
) -> Noise:
    """Noise from a named schedule.

    Args:
        schedule, steps: of the schedule.
        factor, prediction_type: as of ``Noise``.
        device: of torch, that its table is on; None: a NumPy array.
    """
    table = alpha_bars(schedule, steps)
    if device is None:
        return Noise(table, factor, prediction_type)

    import torch

    with torch.inference_mode(False):  # whoever trains may use it too
        return Noise(torch.from_numpy(table).to(device), factor, prediction_type)
