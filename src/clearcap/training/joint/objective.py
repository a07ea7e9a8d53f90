"""The objective of joint training: photos through the encoder, captions at every noise level and in the few steps."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.config import SamplingConfig
from clearcap.diffusion.ladic import Draws
from clearcap.training.joint.seeing import Seeing
from clearcap.training.objectives import LadicObjective, Objective
from clearcap.training.step_distillation.objective import StepDistillationObjective

FEW_CAPTION = 2.0
"""Weight of the few steps' caption loss: about half of a caption's positions are told, and cost nothing."""


class JointObjective(Objective):
    """LaDiC's losses on some photos of a step and the few steps' on the others, down to an encoder in training."""

    caption_weight = 1.0
    denoiser: Any

    def __init__(self, captioner: Any, sampling: SamplingConfig, block: int | None = None) -> None:
        """Args:
        captioner: its denoiser and LM head are trained.
        sampling: how it will caption in few steps, without guidance.
        block: first block of the EfficientNet that is trained, too; None for none.

        Raises:
            InputError: it has another encoder.
        """
        super().__init__()
        self.denoiser, self.text = captioner.denoiser, captioner.text
        self.ladic = LadicObjective(captioner, captioner.noise(captioner.objective.noise_factor))
        self.few = StepDistillationObjective(captioner, sampling)
        self.seeing = None if block is None else Seeing(captioner.vision, block)

    def forward(
        self,
        image: Tensor,
        seed: int,
        has_image: Bool[Tensor, " first"],
        x0: Float[Tensor, "batch length dim"],
        ids: Int[Tensor, "batch length"],
        draws: Draws,
        few_x0: Float[Tensor, "few length dim"],
        few_ids: Int[Tensor, "few length"],
        noise: Float[Tensor, "calls few length dim"],
    ) -> tuple[Tensor, Tensor]:
        """Latent losses and caption losses of both.

        Args:
            image: tokens of photos [photos, tokens, dim], or, where the encoder is trained, their bytes
                [photos, 3, size, size]; LaDiC's photos first, then those of the few steps.
            seed: of their brightness and colours.
            has_image: of LaDiC's captions, photo by photo; False for those without a photo, at the end.
            x0, ids, draws: as for ``LadicObjective``.
            few_x0, few_ids, noise: as for ``StepDistillationObjective``.
        """
        generator = torch.Generator(image.device).manual_seed(seed)
        tokens = image if self.seeing is None else self.seeing(image, generator)
        shown = int(has_image.sum())
        alone = tokens.new_zeros(len(has_image) - shown, *tokens.shape[1:])
        latent, caption = self.ladic(torch.cat((tokens[:shown], alone)), has_image, x0, ids, draws)
        few_latent, few_caption = self.few(tokens[shown:], few_x0, few_ids, noise)
        return latent + few_latent, caption + FEW_CAPTION * few_caption
