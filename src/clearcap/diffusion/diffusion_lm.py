"""CLIP-Diffusion-LM's objective: every caption at many noise levels in one step, sharing one noise draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.arrays import Latents, TokenIds
from clearcap.diffusion.ladic import caption_loss
from clearcap.diffusion.noise import Noise
from clearcap.text.interface import TextSpace

PredictRows = Callable[[Tensor, Tensor | None], Tensor]
"""(noisy latents, which rows the caption's vector guides) -> the network's prediction."""


@dataclass(frozen=True)
class LevelDraws:
    """All randomness of one step.

    Attributes:
        t: noise levels, the same for every caption.
        eps: one standard normal draw per caption, shared by all levels.
        eps_first: noise of the pass at t = 1.
        eps_target: noise of the target, where it is not x0.
        guided: rows that the caption's vector guides, caption-major; None where none is.
        keep_image: False where a photo is hidden.
    """

    t: Int[Tensor, " levels"]
    eps: Latents
    eps_first: Latents
    eps_target: Latents
    guided: Bool[Tensor, " rows"] | None
    keep_image: Bool[Tensor, " photos"]


@dataclass(frozen=True)
class LevelLosses:
    """Terms of the objective (paper, section 3.2); sums over a caption's positions, means over captions."""

    noisy: Tensor
    first: Tensor
    rounding: Tensor
    image: Tensor | float = 0.0  # restoring the photo's vector, weighted

    @property
    def latent(self) -> Tensor:
        """L'_simple: restoring x0 from x_t and from x_1, and the photo's vector where that is asked for."""
        return self.noisy + self.first + self.image


def draw_levels(
    *,
    photos: int,
    copies: int,
    length: int,
    dim: int,
    steps: int,
    levels: int,
    drop_image: float,
    generator: torch.Generator,
) -> LevelDraws:
    """Draws of one step without guidance; levels uniform over all."""
    eps = torch.randn(3, photos * copies, length, dim, generator=generator)
    return LevelDraws(
        t=torch.randint(steps, (levels,), generator=generator),
        eps=eps[0],
        eps_first=eps[1],
        eps_target=eps[2],
        guided=None,
        keep_image=torch.rand(photos, generator=generator) >= drop_image,
    )


def l1(
    mine: Float[Tensor, "*rows length dim"], theirs: Float[Tensor, "*rows length dim"]
) -> Float[Tensor, ""]:
    """Absolute error summed over positions, averaged over captions and channels."""
    return (mine - theirs).abs().sum(-2).mean()


def frobenius(
    mine: Float[Tensor, "*rows length dim"], theirs: Float[Tensor, "*rows length dim"]
) -> Float[Tensor, ""]:
    """Mean over captions of the norm of the whole error."""
    return (mine - theirs).flatten(-2).norm(dim=-1).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "frobenius": frobenius}


def rounding_loss(
    logits: Float[Tensor, "rows length vocab"], ids: Int[Tensor, "rows length"]
) -> Float[Tensor, ""]:
    """L_R: -log p of the caption, all positions summed, averaged over captions; in nats."""
    return caption_loss(logits, ids) * ids.shape[1]


def level_losses(
    predict: PredictRows,
    space: TextSpace,
    noise: Noise,
    *,
    x0: Latents,
    ids: TokenIds,
    draws: LevelDraws,
    distance: Callable[[Tensor, Tensor], Tensor] = l1,
    lag: int = 0,
) -> LevelLosses:
    """One step's losses.

    Args:
        predict: the denoiser with its photos bound; rows are captions * levels, caption-major.
        space: decodes predictions.
        noise: corruption; the network predicts x0, or x_{t - lag}.
        x0: clean latents.
        ids: the captions' tokens.
        draws: the step's randomness.
        distance: of latents.
        lag: 0 predicts x0; n predicts a draw of x at level max(t - n, 0) (paper, section 5.4).
    """
    levels = len(draws.t)
    x_t = noise.add(x0[:, None], draws.t, draws.eps[:, None])
    output = predict(x_t.flatten(0, 1), draws.guided).float()
    x_1 = noise.add(x0, torch.ones_like(ids[:, 0]), draws.eps_first)
    first = predict(x_1, None).float()
    target = x0[:, None].expand_as(x_t)
    if lag:
        target = noise.add(x0[:, None], (draws.t - lag).clamp_min(0), draws.eps_target[:, None])
    asked = space.targets(ids)
    return LevelLosses(
        noisy=distance(output, target.flatten(0, 1)),
        first=distance(first, x0),
        rounding=rounding_loss(space.decode(output), asked.repeat_interleave(levels, 0))
        + rounding_loss(space.decode(first), asked),
    )


def dynamic_weight(latent: Float[Tensor, ""], rounding: Float[Tensor, ""], ratio: float) -> Float[Tensor, ""]:
    """lambda = C L' / L_R, from the unweighted losses of the step itself (paper, section 5.3).

    The authors' code divided by a rounding loss that lambda had already scaled, so its ratio tended to
    sqrt(C L' / L_R).
    """
    return ratio * (latent / rounding).detach()
