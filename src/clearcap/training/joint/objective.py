"""The objective of joint training: photos through the encoder, captions at every noise level and in the few steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from clearcap.config import SamplingConfig
from clearcap.diffusion.ladic import Draws
from clearcap.errors import InputError
from clearcap.training.encoder.finetune import freeze_below
from clearcap.training.encoder.live import recoloured, to_unit
from clearcap.training.objectives import LadicObjective, Objective
from clearcap.training.step_distillation.objective import StepDistillationObjective
from clearcap.vision.efficientnet import EfficientNetEncoder, PairedEncoder

FEW_CAPTION = 2.0
"""Weight of the few steps' caption loss: about half of a caption's positions are told, and cost nothing."""


class JointObjective(Objective):
    """LaDiC's losses on some photos of a step and the few steps' on the others, down to the encoder's upper blocks."""

    caption_weight = 1.0
    vision: Any
    denoiser: Any

    def __init__(self, captioner: Any, sampling: SamplingConfig, block: int) -> None:
        """Args:
        captioner: its denoiser, LM head and encoder are trained.
        sampling: how it will caption in few steps, without guidance.
        block: first block of the EfficientNet that is trained.

        Raises:
            InputError: it has another encoder.
        """
        super().__init__()
        self.denoiser, self.text, self.vision = captioner.denoiser, captioner.text, captioner.vision
        self.ladic = LadicObjective(captioner, captioner.noise(captioner.objective.noise_factor))
        self.few = StepDistillationObjective(captioner, sampling)
        self.block = block
        blocks = len(efficientnet_of(captioner.vision).blocks)
        if not 0 <= block < blocks:
            raise InputError(f"block={block} is none of the encoder's {blocks}; pass 0 to {blocks - 1}")
        captioner.vision.requires_grad_(False)
        freeze_below(efficientnet_of(captioner.vision), block)

    def train(self, mode: bool = True) -> JointObjective:
        """The encoder's batch norms keep the statistics they came with."""
        super().train(mode)
        self.vision.eval()
        return self

    def encoder_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the encoder, those that are trained."""
        return ((name, p) for name, p in self.vision.named_parameters() if p.requires_grad)

    def tokens(self, photos: Float[Tensor, "photos 3 size size"]) -> Float[Tensor, "photos tokens dim"]:
        """Image tokens, with gradients for the trained blocks alone."""
        network = efficientnet_of(self.vision)
        with torch.no_grad():
            grid = network.lower(photos, self.block)
            rest = self.vision.compact(photos) if isinstance(self.vision, PairedEncoder) else 0
        tokens: Tensor = network.read(network.upper(grid, self.block)) + rest
        return tokens.float()

    def forward(
        self,
        photos: UInt8[Tensor, "photos 3 size size"],
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
            photos: as bytes; LaDiC's first, then those of the few steps.
            seed: of their brightness and colours.
            has_image: of LaDiC's captions, photo by photo; False for those without a photo, at the end.
            x0, ids, draws: as for ``LadicObjective``.
            few_x0, few_ids, noise: as for ``StepDistillationObjective``; the few steps learn people's captions.
        """
        generator = torch.Generator(photos.device).manual_seed(seed)
        tokens = self.tokens(recoloured(to_unit(photos), generator))
        shown = int(has_image.sum())
        alone = tokens.new_zeros(len(has_image) - shown, *tokens.shape[1:])
        latent, caption = self.ladic(torch.cat((tokens[:shown], alone)), has_image, x0, ids, draws)
        few_latent, few_caption = self.few(tokens[shown:], few_x0, few_ids, noise)
        return latent + few_latent, caption + FEW_CAPTION * few_caption


def efficientnet_of(vision: Any) -> EfficientNetEncoder:
    """The EfficientNet of an image encoder.

    Raises:
        InputError: it has none.
    """
    network = vision.efficientnet if isinstance(vision, PairedEncoder) else vision
    if not isinstance(network, EfficientNetEncoder):
        raise InputError(
            f"the captioner's image encoder is a {type(vision).__name__}, and an EfficientNet alone is trained "
            "jointly; use default, or clearcap train"
        )
    return network
