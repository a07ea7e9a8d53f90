"""The objective of self-critical training: captions drawn from the few steps' own predictions, by their reward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.config import SamplingConfig
from clearcap.diffusion.ladic import Draws
from clearcap.training.joint.seeing import Seeing
from clearcap.training.objectives import LadicObjective, Objective
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.step_distillation.rollout import Rollout


class SelfCriticalObjective(Objective):
    """Makes words of well-rewarded captions likelier and others rarer, at every call of a few-step sampler.

    A prediction of x0 is read as one distribution of words for each position, independent of the others; captions
    are drawn from it and rewarded, and the gradient of the mean reward is estimated by their log-probabilities
    (self-critical sequence training, Rennie et al. 2017; for captions whose words are written at once Guo et al. 2020).
    Each draw is judged against the mean of the other draws from the same distribution (Luo 2020). A share of LaDiC's
    own losses keeps what the reward does not ask for: other noise levels, given words, captions without a photo.
    """

    denoiser: Any
    text: Any

    def __init__(
        self,
        captioner: Any,
        sampling: SamplingConfig,
        reward: CiderReward,
        allowed: Bool[Tensor, " vocab"],
        *,
        samples: int,
        kept: float,
        block: int | None = None,
    ) -> None:
        """Args:
        captioner: its denoiser and LM head are trained.
        sampling: how it will caption, without guidance.
        reward: of captions.
        allowed: tokens that are drawn: those that are words by themselves.
        samples: captions drawn from each prediction.
        kept: weight of LaDiC's losses.
        block: first block of the image encoder that is trained, too; None for none.
        """
        super().__init__()
        self.denoiser, self.text = captioner.denoiser, captioner.text
        self.ladic = LadicObjective(captioner, captioner.noise(captioner.objective.noise_factor))
        self.reward = reward
        self.rollout = Rollout(captioner, sampling)
        self.caption_weight, self.samples = kept, samples
        self.seeing = None if block is None else Seeing(captioner.vision, block)
        self.register_buffer("banned", ~allowed)

    def forward(
        self,
        image: Tensor,
        photos: Int[Tensor, " photos"],
        lengths: Int[Tensor, " batch"],
        noise: Float[Tensor, "calls batch length dim"],
        seed: int,
        x0: Float[Tensor, "kept length dim"],
        ids: Int[Tensor, "kept length"],
        draws: Draws,
    ) -> tuple[Tensor, Tensor]:
        """The policy's loss, whose value is the negative advantage and tells little, and LaDiC's.

        Args:
            image: tokens of photos [photos, tokens, dim], or, where the encoder is trained, their bytes
                [photos, 3, size, size].
            photos: their rows among the reward's references.
            lengths: words of the captions to be drawn, photo-major copies.
            noise: of the few steps.
            seed: of the captions drawn, and of the photos' colours.
            x0, ids, draws: as for ``LadicObjective``, of captions of the first photos.
        """
        generator = torch.Generator(image.device).manual_seed(seed)
        if self.seeing is not None:
            image = self.seeing(image, generator)
        about = photos.repeat_interleave(len(lengths) // len(photos))
        calls = self.rollout(image, lengths, noise, generator)
        policy = torch.stack([self.policy(x0, about, lengths, generator) for x0 in calls]).mean()
        shown = draws.keep_image
        return policy, self.ladic.total(
            *self.ladic(image[: len(shown)], torch.ones_like(shown), x0, ids, draws)
        )

    def policy(
        self,
        x0: Float[Tensor, "batch length dim"],
        about: Int[Tensor, " batch"],
        lengths: Int[Tensor, " batch"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Minus advantage times log-probability, a mean over words, of captions drawn from one prediction."""
        most = int(lengths.max())
        logits = self.text.decode(x0)[:, 1 : most + 1].float().masked_fill(self.banned, -torch.inf)
        known = logits.log_softmax(-1)
        word = torch.arange(most, device=x0.device) < lengths[:, None]
        with torch.no_grad():
            spread = known.exp().flatten(0, 1)
            drawn = torch.multinomial(spread, self.samples, replacement=True, generator=generator)
            words = drawn.unflatten(0, known.shape[:2]).transpose(1, 2)  # [batch, samples, places]
            captions = words.masked_fill(~word[:, None], -1).flatten(0, 1)
            rewards = self.reward(captions, about.repeat_interleave(self.samples)).unflatten(0, (len(x0), -1))
            advantage = (rewards - rewards.mean(1, keepdim=True)) * self.samples / (self.samples - 1)
        chosen = known.gather(-1, words.transpose(1, 2)).masked_fill(~word[..., None], 0)
        return -(chosen * advantage[:, None]).sum() / (word.sum() * self.samples)
