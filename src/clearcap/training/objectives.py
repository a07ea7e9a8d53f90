"""The losses of one training step as modules, so that data parallelism synchronises their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearcap.arrays.layers import hide_photos
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
from clearcap.errors import InputError
from clearcap.sampling.guidance import guide
from clearcap.text.split_bert import word_positions


class Objective(nn.Module, ABC):
    """What a step minimises: a distance of latents and lambda times a loss of captions."""

    caption_weight: float

    @abstractmethod
    def forward(self, *batch: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Latent loss and caption loss of a batch."""

    def total(self, latent: Float[Tensor, ""], caption: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What the gradient is taken of."""
        return latent + self.caption_weight * caption


class LadicObjective(Objective):
    """LaDiC's losses: a caption at one noise level (``clearcap.diffusion.ladic``)."""

    denoiser: Any
    text: Any

    def __init__(self, captioner: Any, noise: Noise) -> None:
        """Args:
        captioner: its denoiser and LM head are trained; its diffusion settings say how.
        noise: corruption.
        """
        super().__init__()
        self.denoiser, self.text, self.noise = captioner.denoiser, captioner.text, noise
        asked = captioner.objective
        self.caption_weight = asked.caption_weight
        self.shares = {
            "drop_image": asked.drop_image,
            "self_condition": asked.self_condition,
            "emphasis": asked.timestep_exponent,
            "given": asked.infilling,
        }
        self.pad, self.blank = captioner.config.tokens["pad"], captioner.config.tokens.get("mask")

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Latent loss and caption loss of a batch.

        Args:
            image: image tokens [photos, tokens, dim].
            has_image: False for captions without a photo [photos].
            x0: clean latents [photos * copies, length, dim].
            ids: their tokens [photos * copies, length].
            draws: the step's randomness.
        """
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
        """The denoiser of captions whose length and some of whose words are given, as when blanks are filled.

        Given words are encoded with the mask token in place of the others, so their latents betray nothing.
        """
        mask = (ids != self.pad).long()
        fixed = framed[:, None] & (given | ~word_positions(mask))
        latent = self.text.encode(torch.where(fixed, ids, self.blank), mask)
        return infilled(predict, latent, fixed)

    def sample(self, **sizes: Any) -> Draws:
        """A step's randomness; arguments are the sizes of ``clearcap.diffusion.ladic.draw`` and its generator."""
        return draw(steps=self.noise.steps, **self.shares, **sizes)


class DiffusionLMObjective(Objective):
    """CLIP-Diffusion-LM's losses: a caption at many noise levels (``clearcap.diffusion.diffusion_lm``)."""

    denoiser: Any  # a FusedDenoiser
    text: Any  # an EmbeddingSpace

    def __init__(self, captioner: Any, noise: Noise, guide: float = 0.0) -> None:
        """Args:
        captioner: its denoiser is trained; its text space is frozen; its diffusion settings say how.
        noise: corruption.
        guide: weight w with which a caption's vector, the image tokens' second, guides the rows drawn for it.
        """
        super().__init__()
        self.denoiser, self.text, self.noise, self.guide = captioner.denoiser, captioner.text, noise, guide
        asked = captioner.objective
        self.caption_weight, self.dynamic = asked.caption_weight, asked.dynamic_weight
        self.levels, self.lag, self.drop_image = asked.levels, asked.lag, asked.drop_image
        self.distance, self.image_weight = DISTANCES[asked.distance], asked.image_weight
        if self.image_weight and captioner.config.denoiser["kind"] != "concat":
            raise InputError(
                f"diffusion.image_weight={self.image_weight} needs denoiser.kind=concat, which gives the photo a "
                "position of its own; set it to 0"
            )

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: LevelDraws
    ) -> tuple[Tensor, Tensor]:
        """Latent loss and rounding loss of a batch; arguments as for ``LadicObjective.forward``."""
        losses = self.losses(image, draws.keep_image & has_image, x0, ids, draws)
        return losses.latent, losses.rounding

    def sample(self, **sizes: Any) -> LevelDraws:
        """A step's randomness; arguments as ``LadicObjective.sample`` has them."""
        return draw_levels(levels=self.levels, steps=self.noise.steps, drop_image=self.drop_image, **sizes)

    def total(self, latent: Float[Tensor, ""], caption: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """With lambda fixed, or such that its term stays a multiple of the other."""
        if not self.dynamic:
            return super().total(latent, caption)
        return latent + dynamic_weight(latent, caption, self.dynamic) * caption

    def losses(self, image: Tensor, keep: Tensor, x0: Tensor, ids: Tensor, draws: LevelDraws) -> LevelLosses:
        """All terms apart; arguments as for ``forward``, ``keep`` False where a photo is hidden."""
        none = torch.zeros(len(image), dtype=torch.bool, device=image.device)
        ((features, shown),) = self.denoiser.image_context(image, none)
        plain = [(features, shown * keep[:, None])]
        words: Tensor = ids.ne(self.text.pad_id)

        restored: list[Tensor] = []

        def predict(x: Tensor, guided: Tensor | None) -> Tensor:
            rows = words.repeat_interleave(len(x) // len(words), 0)
            every = self.denoiser.whole(x, None, None, plain, words=rows)
            without = every[:, : x.shape[1]]
            if self.image_weight:
                wanted = features[:, :1].detach().repeat_interleave(len(x) // len(features), 0)
                restored.append(self.distance(every[:, x.shape[1] :][:, :1].float(), wanted.float()))
            if guided is None or not self.guide:
                return without
            with_text = self.denoiser(x, None, None, self.denoiser.image_context(image), words=rows)
            led = guide(with_text, without, self.guide)
            return torch.where(guided[:, None, None], led, without)

        found = level_losses(
            predict, self.text, self.noise, x0=x0, ids=ids, draws=draws, distance=self.distance, lag=self.lag
        )
        return replace(found, image=self.image_weight * restored[0]) if restored else found
