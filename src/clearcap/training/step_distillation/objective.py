"""The objective of a few-step student: sample as it will be sampled, and say what the teacher said at every call."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.captioner.model import Captioner
from clearcap.config import SamplingConfig
from clearcap.diffusion.ladic import caption_loss, latent_distance
from clearcap.training.objectives import Objective
from clearcap.training.step_distillation.rollout import Rollout, lengths_of


class StepDistillationObjective(Objective):
    """The student's own sampler, with the teacher's caption as the target of each of its calls.

    One call from pure noise to the teacher's final prediction is knowledge distillation of a sampler (Luhman and
    Luhman 2021). A later call sees what the student itself predicted before, re-noised, as it will when it
    captions (the multi-step generator simulation of Yin et al. 2024, DMD2, section 4.5): from the teacher's
    latents, which are all but readable at half the noise, it would learn to copy and never to mend. Running the
    solver itself puts training at exactly the noise levels, noise factor and start noise that sampling visits; and
    because every call has the target, the student also captions in fewer calls than it was trained for.
    """

    denoiser: Any
    text: Any

    def __init__(self, captioner: Captioner, sampling: SamplingConfig, caption_weight: float = 1.0) -> None:
        """Args:
        captioner: its denoiser is trained; its text space is frozen.
        sampling: how the student will caption, without guidance.
        caption_weight: lambda.
        """
        super().__init__()
        self.caption_weight = caption_weight
        self.denoiser = captioner.denoiser
        self.text = captioner.text
        self.rollout = Rollout(captioner, sampling)
        self.special = torch.tensor(captioner.text.special_ids)

    @property
    def calls(self) -> int:
        """Calls of the denoiser, each of which draws noise once at most."""
        return self.rollout.calls

    def forward(
        self,
        image: Float[Tensor, "photos tokens image_dim"],
        x0: Float[Tensor, "batch length dim"],
        ids: Int[Tensor, "batch length"],
        noise: Float[Tensor, "calls batch length dim"],
    ) -> tuple[Tensor, Tensor]:
        """Latent distance and caption loss, means over the calls.

        Args:
            image: photos.
            x0: what the teacher predicted in the end, photo-major copies.
            ids: its tokens; where the student will be told lengths, it is told theirs.
            noise: standard normal draws, the first one that of the start.
        """
        said = torch.cat(self.rollout(image, lengths_of(ids, self.special), noise))
        calls = len(said) // len(x0)
        latent = latent_distance(said, x0.repeat(calls, 1, 1))
        return latent, caption_loss(self.text.decode(said), self.text.targets(ids).repeat(calls, 1))
