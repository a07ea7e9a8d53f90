"""Noising, parameterisation and the two training losses of a diffusion captioner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.errors import InputError
from clearcap.schedule import alpha_bars
from clearcap.text.spaces import TextSpace

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


@dataclass(frozen=True)
class Draws:
    """All randomness of one training step, so that a step is a pure function (and can be replayed).

    Attributes:
        t: noise level of each caption.
        eps: standard normal noise.
        keep_image: False where a photo is hidden, for classifier-free guidance.
        self_condition: whether this step conditions on a first prediction.
        framed: captions whose length the network is told (None: none).
        given: where it is also told the word, if one stands there and the caption is framed.
    """

    t: Int[Tensor, " batch"]
    eps: Float[Tensor, "batch length dim"]
    keep_image: Bool[Tensor, " photos"]
    self_condition: bool
    framed: Bool[Tensor, " batch"] | None = None
    given: Bool[Tensor, "batch length"] | None = None


def draw(
    *,
    photos: int,
    copies: int,
    length: int,
    dim: int,
    steps: int,
    drop_image: float,
    self_condition: float,
    generator: torch.Generator,
    emphasis: float = 1.0,
    given: float = 0.0,
) -> Draws:
    """Draws of one step: t = T u^(1/emphasis), the photo hidden with probability ``drop_image``.

    With emphasis 1 levels are uniform, as published; above 1 more steps go to the noisy levels, where words are
    chosen, and fewer to the clean ones, where they can be read off.
    """
    batch = photos * copies
    made = Draws(
        t=_levels(batch, steps, emphasis, generator),
        eps=torch.randn(batch, length, dim, generator=generator),
        keep_image=torch.rand(photos, generator=generator) >= drop_image,
        self_condition=bool(torch.rand((), generator=generator) < self_condition),
    )
    if not given:
        return made
    framed = torch.rand(batch, generator=generator) < given
    share = (2 * torch.rand(batch, 1, generator=generator) - 1).clamp_min(
        0
    )  # of the words; none half the time
    return replace(made, framed=framed, given=torch.rand(batch, length, generator=generator) < share)


def _levels(batch: int, steps: int, emphasis: float, generator: torch.Generator) -> Int[Tensor, " batch"]:
    if emphasis == 1:
        return torch.randint(steps, (batch,), generator=generator)
    u = torch.rand(batch, generator=generator)
    return (steps * u ** (1 / emphasis)).long().clamp_max(steps - 1)


def latent_distance(
    x_hat: Float[Tensor, "batch length dim"], x0: Float[Tensor, "batch length dim"]
) -> Tensor:
    """Mean over positions of the L2 norm, not squared, of the error (what LaDiC's code calls its MSE)."""
    return (x_hat - x0).norm(dim=-1).mean()


def caption_loss(
    logits: Float[Tensor, "batch length vocab"], targets: Int[Tensor, "batch length"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every position's token, in nats."""
    return CrossEntropy.apply(logits.flatten(0, 1).float(), targets.flatten())


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose backward is one exponential over the logits, in place.

    torch's own takes two further passes and a zeroed copy of the logits, 5 times the time on a CPU (LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        norm = logits.logsumexp(-1)
        ctx.save_for_backward(logits, norm, targets)
        return (norm - logits.gather(-1, targets[:, None])[:, 0]).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, norm, targets = ctx.saved_tensors
        slope = (logits - norm[:, None]).exp_()
        slope[torch.arange(len(targets), device=targets.device), targets] -= 1
        return slope.mul_(grad / len(targets)), None


@dataclass(frozen=True)
class Losses:
    """The two terms of LaDiC's objective and what they were computed from."""

    latent: Tensor
    caption: Tensor
    x0_hat: Tensor

    def total(self, weight: float) -> Tensor:
        """L_latent + lambda * L_caption (paper, eq. 2)."""
        return self.latent + weight * self.caption


def training_losses(
    predict: Predict,
    space: TextSpace,
    noise: Noise,
    *,
    x0: Float[Tensor, "batch length dim"],
    ids: Int[Tensor, "batch length"],
    draws: Draws,
) -> Losses:
    """One training step's losses (LaDiC, section 3.3; self-conditioning of Chen et al. 2022).

    Args:
        predict: the denoiser with its photos bound.
        space: decodes predictions for the caption loss.
        noise: corruption and parameterisation.
        x0: clean latents.
        ids: the captions' tokens.
        draws: the step's randomness.
    """
    x_t = noise.add(x0, draws.t, draws.eps)
    x_self = torch.zeros_like(x_t)
    if draws.self_condition:
        with torch.no_grad():
            x_self = noise.x0(predict(x_t, x_self, draws.t).float(), x_t, draws.t)
    output = predict(x_t, x_self, draws.t).float()
    x0_hat = noise.x0(output, x_t, draws.t)
    return Losses(
        latent=latent_distance(output, noise.target(x0, draws.t, draws.eps)),
        caption=caption_loss(space.decode(x0_hat), space.targets(ids)),
        x0_hat=x0_hat,
    )
