"""Self-critical training of a twin: captions that it draws word by word, by their CIDEr-D."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor

from clearcap.captioner.towers import build_captioner
from clearcap.config import Preset, TrainConfig
from clearcap.data.features import Features
from clearcap.data.records import CaptionedPhoto
from clearcap.text.tokenizer import word_ids
from clearcap.training.examples import photos_of_step
from clearcap.training.log import Scored, scored
from clearcap.training.loop import BatchAt, generator_at
from clearcap.training.objectives import Objective
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.self_critical.run import references_of
from clearcap.training.twin.decoding import draw
from clearcap.training.twin.examples import TokenisedCaptions
from clearcap.training.twin.network import Twin
from clearcap.training.twin.run import (
    WEIGHTS,
    batches_of_twin,
    fit_twin,
    save_twin,
    train_twin,
)
from clearcap.training.twin.writing import write

DRAWN = 5  # captions of each photo, each judged against the mean of the others


class RewardedTwin(Objective):
    """Makes captions that are rewarded better than others of the same photo likelier (Rennie et al. 2017; Luo 2020).

    Captions are drawn without dropout, and their log-probabilities taken with it.
    """

    twin: Any
    banned: Tensor

    def __init__(
        self,
        twin: Twin,
        reward: CiderReward,
        allowed: Bool[Tensor, " vocab"],
        *,
        first: int,
        end: int,
        pad: int,
        kept: float,
    ) -> None:
        """Args:
        twin: what is trained.
        reward: of captions.
        allowed: tokens that are drawn besides the end.
        first, end, pad: special tokens.
        kept: weight of the cross-entropy of people's captions, which keeps what the reward does not ask for.
        """
        super().__init__()
        self.twin, self.reward = twin, reward
        self.first, self.end, self.pad, self.caption_weight = first, end, pad, kept
        banned = ~allowed
        banned[end] = False
        self.register_buffer("banned", banned)

    def forward(
        self,
        image: Float[Tensor, "photos tokens dim"],
        ids: Int[Tensor, "batch length"],
        photos: Int[Tensor, " photos"],
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        """The policy's loss, whose value is minus the mean reward, and the cross-entropy of people's captions.

        Args:
            image: tokens of the photos.
            ids: captions that people wrote.
            photos: rows among the reward's references.
            seed: of the captions drawn.
        """
        generator = torch.Generator(image.device).manual_seed(seed)
        self.twin.eval()
        drawn = draw(
            self.twin,
            image,
            DRAWN,
            first=self.first,
            end=self.end,
            pad=self.pad,
            banned=self.banned,
            generator=generator,
        )
        self.twin.train(self.training)
        said = drawn != self.pad
        words = drawn.masked_fill(~said | (drawn == self.end), -1)
        rewards = self.reward(words, photos.repeat_interleave(DRAWN)).unflatten(0, (-1, DRAWN))
        advantage = (rewards - rewards.mean(1, keepdim=True)) * DRAWN / (DRAWN - 1)
        context = self.twin.image_context(image)
        begun = torch.cat((torch.full_like(drawn[:, :1], self.first), drawn[:, :-1]), 1)
        h, _ = self.twin.read(begun, context)
        logits = self.twin.logits(h[said]).float().masked_fill(self.banned, -torch.inf)
        chosen = logits.log_softmax(-1).gather(-1, drawn[said][:, None])[:, 0]
        policy = -(chosen * advantage.flatten().repeat_interleave(said.sum(1))).sum() / said.sum()
        people = self.twin.loss(ids, context, self.pad) if self.caption_weight else torch.zeros_like(policy)
        return policy - policy.detach() - rewards.mean(), people


def reward_twin(
    begun: Path,
    preset: Preset,
    out: Path,
    *,
    kept: float = 0.1,
    share: float = 0.5,
    console: Console | None = None,
) -> tuple[Twin, Any]:
    """Train a twin on by the CIDEr-D of what it says, or go on where a killed run stopped.

    Writes ``out/checkpoint``, ``out/curves.jsonl``, ``out/samples.jsonl`` and ``out/twin.safetensors``.

    Args:
        begun: folder of a twin's training by likelihood.
        preset: its settings, with ``preset.train`` of this training.
        out: the run's folder.
        kept: weight of the cross-entropy of people's captions.
        share: of the rewarded weights in those that are written; the rest are the ones it began with, and between the
            two lie better ones (Wortsman et al. 2022).
        console: where progress is shown; standard error by default.

    Returns:
        The twin, in evaluation mode, and its tokenizer.

    Raises:
        InputError: settings, corpus or towers do not fit.
    """
    console, config = console or Console(stderr=True), preset.train
    if (out / WEIGHTS).is_file():
        return train_twin(preset, out, console)
    twin, tokenizer = train_twin(preset, begun, console)
    before = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    captioner, _ = build_captioner(preset, seed=config.seed)

    def rewarded(
        photos: Sequence[CaptionedPhoto], features: Features, captions: TokenisedCaptions
    ) -> tuple[Objective, BatchAt]:
        by_name = {photo.id: photo for photo in photos}
        learned = [by_name[features.names[row]] for row in captions.rows.tolist()]
        objective = RewardedTwin(
            twin,
            CiderReward(references_of(learned, tokenizer), len(tokenizer)),
            torch.from_numpy(word_ids(tokenizer, captioner.text.special_ids, len(tokenizer))),
            first=tokenizer.cls_token_id,
            end=tokenizer.sep_token_id,
            pad=tokenizer.pad_token_id,
            kept=kept,
        )
        batch_at = batches_of_twin(captions, features, config, mirror=preset.data.mirror)
        return objective, with_photos(batch_at, captions, config)

    sample = partial(said_of, twin, tokenizer)
    fit_twin(
        twin, captioner, tokenizer, preset, out, console, rewarded, settings={"kept": kept}, sample=sample
    )
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            tensor.copy_(before[name].lerp(tensor, share))
    save_twin(twin, out)
    return twin.eval(), tokenizer


def said_of(twin: Twin, tokenizer: Any, features: Features, photos: Sequence[CaptionedPhoto]) -> Scored:
    """The twin's captions of photos, with a beam of three, and their scores."""
    rows = features.rows([photo.id for photo in photos])
    image = features.gather(torch.zeros_like(rows), rows).to(twin.bias.device)
    references: dict[str | int, Sequence[str]] = {photo.id: photo.captions for photo in photos}
    return scored(dict(zip(references, write(twin, image, tokenizer), strict=True)), references)


def with_photos(batch_at: BatchAt, captions: TokenisedCaptions, config: TrainConfig) -> BatchAt:
    """A twin's batches, and behind them which photos they are of and the seed of what is drawn."""

    def rewarded_batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        chosen = photos_of_step(len(captions.rows), config.photos, config.seed, step, rank, world)
        seed = generator_at(config.seed, 2, step, rank).initial_seed()
        return *batch_at(step, rank, world), chosen, seed

    return rewarded_batch_at
