"""LaDiC's objective: a caption at one noise level, its latent and its tokens restored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.arrays import Latents, Logits, TokenIds
from clearcap.diffusion.noise import Noise, Predict
from clearcap.text.interface import TextSpace


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
    eps: Latents
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


def latent_distance(x_hat: Latents, x0: Latents) -> Tensor:
    """Mean over positions of the L2 norm, not squared, of the error (what LaDiC's code calls its MSE)."""
    return (x_hat - x0).norm(dim=-1).mean()


def caption_loss(logits: Logits, targets: TokenIds) -> Float[Tensor, ""]:
    """Mean cross-entropy of every position's token, in nats."""
    return CrossEntropy.apply(logits.flatten(0, 1), targets.flatten())


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits of any type, computed in float32, a block of rows after another.

    A block stays in the processor's cache, and nothing as large as the logits is written but their gradient.
    torch's own writes five such copies and takes three times as long on a CPU (LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over rows of -log p of the target, in nats."""
        norm = torch.cat([rows.float().logsumexp(-1) for rows in logits.split(block_of(logits))])
        ctx.save_for_backward(logits, norm, targets)
        return (norm - logits.gather(-1, targets[:, None])[:, 0]).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The logits' gradient; the targets have none."""
        logits, norm, targets = ctx.saved_tensors
        slope = torch.empty_like(logits)
        blocks = (one.split(block_of(logits)) for one in (logits, norm, targets, slope))
        for rows, above, asked, out in zip(*blocks, strict=True):
            p = (rows - above[:, None]).exp_()  # float32, as the norm is
            p[torch.arange(len(asked), device=asked.device), asked] -= 1
            out.copy_(p.mul_(grad / len(targets)))
        return slope, None


def block_of(logits: Tensor) -> int:
    """Rows of logits that are worked on at once: as many as a CPU's cache holds, or all."""
    return 32 if logits.device.type == "cpu" else len(logits)


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
    predict: Predict, space: TextSpace, noise: Noise, *, x0: Latents, ids: TokenIds, draws: Draws
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
