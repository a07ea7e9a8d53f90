"""The losses of one training step as modules, so that data parallelism synchronises their gradients."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from clearcap.diffusion.diffusion_lm import (
    DISTANCES,
    LevelDraws,
    LevelLosses,
    draw_levels,
    dynamic_weight,
    level_losses,
)
from clearcap.diffusion.ladic import Draws, draw, training_losses
from clearcap.diffusion.noise import Noise, Predict, infilled
from clearcap.layers import hide_photos
from clearcap.text.split_bert import word_positions


class LadicObjective(nn.Module):
    """The losses of one step as a module, so that data parallelism synchronises their gradients."""

    denoiser: Any
    text: Any

    def __init__(self, captioner: Any, noise: Noise) -> None:
        super().__init__()
        self.denoiser = captioner.denoiser
        self.text = captioner.text
        self.noise = noise
        self.emphasis, self.given = captioner.objective.timestep_exponent, captioner.objective.infilling
        self.pad, self.blank = captioner.config.tokens["pad"], captioner.config.tokens.get("mask")

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        context = hide_photos(
            self.denoiser.image_context(image), self.denoiser.null_context(), draws.keep_image & has_image
        )

        def predict(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x, x_self, t, context)

        told: Predict = predict
        if draws.framed is not None and draws.given is not None:
            told = self.told(predict, ids, draws.framed, draws.given)
        losses = training_losses(told, self.text, self.noise, x0=x0, ids=ids, draws=draws)
        return losses.latent, losses.caption

    def told(
        self,
        predict: Predict,
        ids: Int[Tensor, "batch length"],
        framed: Bool[Tensor, " batch"],
        given: Bool[Tensor, "batch length"],
    ) -> Predict:
        """The denoiser of captions whose length and some of whose words are told, as ``clearcap.pipeline.infilling`` tells them.

        Given words are encoded with the mask token in place of the others, so their latents betray nothing.
        """
        mask = (ids != self.pad).long()
        fixed = framed[:, None] & (given | ~word_positions(mask))
        latent = self.text.encode(torch.where(fixed, ids, self.blank), mask)
        return infilled(predict, latent, fixed)

    def draw(self, **sizes: Any) -> Draws:
        """A step's randomness; arguments of ``clearcap.diffusion.noise.draw``."""
        return draw(emphasis=self.emphasis, given=self.given, **sizes)

    def weight(self, caption_weight: float, latent: Tensor, caption: Tensor) -> float:
        """lambda, fixed."""
        return caption_weight


def make_objective(captioner: Any, noise: Noise) -> LadicObjective | DiffusionLMObjective:
    """The losses that the captioner's settings ask for."""
    asked = captioner.objective
    if asked.objective == "diffusion-lm":
        return DiffusionLMObjective(
            captioner, noise, asked.distance, asked.lag, levels=asked.levels, dynamic=asked.dynamic_weight
        )
    return LadicObjective(captioner, noise)


class DiffusionLMObjective(nn.Module):
    """The losses of one step as a module, so that data parallelism synchronises their gradients."""

    denoiser: Any  # a FusedDenoiser
    text: Any  # an EmbeddingSpace

    def __init__(
        self,
        captioner: Any,
        noise: Noise,
        distance: str = "l1",
        lag: int = 0,
        *,
        guide: float = 0.0,
        levels: int = 100,
        dynamic: float = 0.0,
    ) -> None:
        """Args:
        captioner: its denoiser is trained; its text space is frozen.
        noise: corruption.
        distance: name of the latents' distance.
        lag: 0 predicts x0.
        guide: weight w with which a caption's vector, the image tokens' second, guides the rows drawn for it.
        levels: noise levels of a caption in one step.
        dynamic: multiple of the latent loss that lambda * caption loss is kept at; 0 for a fixed lambda.
        """
        super().__init__()
        self.levels = levels
        self.dynamic = dynamic
        self.denoiser = captioner.denoiser
        self.text = captioner.text
        self.noise = noise
        self.distance = DISTANCES[distance]
        self.lag = lag
        self.guide = guide

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: LevelDraws
    ) -> tuple[Tensor, Tensor]:
        losses = self.losses(image, draws.keep_image & has_image, x0, ids, draws)
        return losses.latent, losses.rounding

    def draw(self, *, self_condition: float, **sizes: Any) -> LevelDraws:
        """A step's randomness, from what LaDiC's objective is told; nothing conditions on itself here."""
        return draw_levels(levels=self.levels, **sizes)

    def weight(self, caption_weight: float, latent: Tensor, caption: Tensor) -> float | Tensor:
        """lambda, fixed or dynamic."""
        return dynamic_weight(latent, caption, self.dynamic) if self.dynamic else caption_weight

    def losses(self, image: Tensor, keep: Tensor, x0: Tensor, ids: Tensor, draws: LevelDraws) -> LevelLosses:
        """All terms apart; arguments as for ``forward``, ``keep`` False where a photo is hidden."""
        none = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        ((features, shown),) = self.denoiser.image_context(image, none)
        plain = [(features, shown * keep[:, None])]
        words: Tensor = ids.ne(self.text.pad_id)

        def predict(x: Tensor, guided: Tensor | None) -> Tensor:
            rows = words.repeat_interleave(len(x) // len(words), 0)
            without = self.denoiser(x, None, None, plain, words=rows)
            if guided is None or not self.guide:
                return without
            with_text = self.denoiser(x, None, None, self.denoiser.image_context(image), words=rows)
            led = (1 + self.guide) * with_text - self.guide * without
            return torch.where(guided[:, None, None], led, without)

        return level_losses(
            predict, self.text, self.noise, x0=x0, ids=ids, draws=draws, distance=self.distance, lag=self.lag
        )
