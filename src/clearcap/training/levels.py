"""CLIP-Diffusion-LM's step as a module, in the place of LaDiC's objective."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clearcap.diffusion import Noise
from clearcap.levels import DISTANCES, LevelDraws, LevelLosses, draw_levels, dynamic_weight, level_losses


class LevelsObjective(nn.Module):
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
        ((features, shown),) = self.denoiser.see(image, none)
        plain = [(features, shown * keep[:, None, None, None])]
        words: Tensor = ids.ne(self.text.pad_id)

        def predict(x: Tensor, guided: Tensor | None) -> Tensor:
            rows = words.repeat_interleave(len(x) // len(words), 0)
            without = self.denoiser(x, None, None, plain, words=rows)
            if guided is None or not self.guide:
                return without
            with_text = self.denoiser(x, None, None, self.denoiser.see(image), words=rows)
            led = (1 + self.guide) * with_text - self.guide * without
            return torch.where(guided[:, None, None], led, without)

        return level_losses(
            predict, self.text, self.noise, x0=x0, ids=ids, draws=draws, distance=self.distance, lag=self.lag
        )
