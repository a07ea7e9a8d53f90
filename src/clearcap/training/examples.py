"""Captions of photos as training examples, and the batch of each step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.config import TextConfig, TrainConfig
from clearcap.data.features import Features, flip
from clearcap.data.reading import as_kind, member, read_jsonl
from clearcap.metrics.cider import DocumentFrequency
from clearcap.metrics.words import agreement_words
from clearcap.sampling.selection import expected_utility
from clearcap.training.loop import generator_at


def sided(words: str) -> re.Pattern[str]:
    """What finds a caption that names a side, which mirroring its photo would make wrong.

    Args:
        words: of a language, for sides (``text.sides``).
    """
    return re.compile(rf"\b({'|'.join(map(re.escape, words.split())) or '(?!)'})\b", re.IGNORECASE)


def sides_of(captioner: Any) -> str:
    """A captioner's words for a side."""
    return str(captioner.config.text.get("sides", TextConfig.sides))


@dataclass(frozen=True)
class Examples:
    """All training captions as clean latents, grouped by photo; text without a photo at the end.

    Attributes:
        x0: clean latents, float16.
        ids: tokens.
        first: index of each photo's first caption, then the number of captioned ones.
        rows: each photo's row in the feature cache.
        mirrored: whether a photo may be mirrored (no caption names a side).
        text_first: index of the first caption that has no photo.
        shares: running sums of how often each of a photo's captions is sampled, infinite behind its last one.
    """

    x0: Float[Tensor, "captions length dim"]
    ids: Int[Tensor, "captions length"]
    first: Int[Tensor, " photos_and_end"]
    rows: Int[Tensor, " photos"]
    mirrored: Bool[Tensor, " photos"]
    text_first: int
    shares: Float[Tensor, "photos most"]

    def tokens(
        self, photos: Int[Tensor, " photos"], features: Features, generator: torch.Generator
    ) -> Float[Tensor, "photos tokens image_dim"]:
        """Image tokens of a view of each photo, mirrored half the time, unless a caption names a side."""
        views = torch.randint(len(features.tokens), (len(photos),), generator=generator)
        image = features.gather(views, self.rows[photos])
        mirror = self.mirrored[photos] & (torch.rand(len(photos), generator=generator) < 0.5)
        return torch.where(mirror[:, None, None], flip(image), image)

    def draw(
        self, photos: Int[Tensor, " photos"], copies: int, generator: torch.Generator
    ) -> Int[Tensor, " batch"]:
        """Captions of photos, photo-major: as near to every caption's share as so many draws can come."""
        # Evenly spaced places in the running sums.
        place = (torch.rand(len(photos), 1, generator=generator) + torch.arange(copies)) / copies
        nth = (place[..., None] >= self.shares[photos][:, None]).sum(-1)
        return torch.minimum(self.first[photos, None] + nth, self.first[photos + 1, None] - 1).flatten()


class Batch(NamedTuple):
    """One step's input: photos and ``copies`` captions of each, photo-major."""

    image: Float[Tensor, "photos tokens image_dim"]
    has_image: Bool[Tensor, " photos"]
    x0: Float[Tensor, "batch length dim"]
    ids: Int[Tensor, "batch length"]


@torch.no_grad()
def prepare_examples(
    captioner: Any,
    tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    captions: Sequence[Sequence[str]],
    rows: Int[Tensor, " photos"],
    text_only: Sequence[str] = (),
    agreement: float = 0.0,
    batch: int = 512,
) -> Examples:
    """Encode all captions once: the lower half is frozen, so their clean latents never change.

    Args:
        captioner: its text space encodes.
        tokenize: captions to ids and mask.
        captions: of each photo.
        rows: each photo's row in the feature cache.
        text_only: captions without photos.
        agreement: weight of ``caption_shares``.
        batch: captions encoded at once.
    """
    flat = [caption for group in captions for caption in group] + list(text_only)
    ids, mask = tokenize(flat)
    space, device = captioner.text.eval(), captioner.device
    parts = zip(ids.split(batch), mask.split(batch), strict=True)
    x0 = torch.cat([space.encode(i.to(device), m.to(device)).half().cpu() for i, m in parts])
    counts = torch.tensor([0, *(len(group) for group in captions)])
    names_a_side = sided(sides_of(captioner)).search
    one_way = [any(map(names_a_side, group)) for group in captions]
    first = counts.cumsum(0)
    shares = caption_shares(captions, agreement)
    return Examples(x0, ids, first, rows, ~torch.tensor(one_way), int(first[-1]), shares)


def read_teacher_captions(file: Path) -> dict[str, tuple[str, ...]]:
    """Captions that another captioner wrote, by photo id, from lines of ``{"photo": id, "captions": [...]}``.

    Raises:
        InputError: the file is missing or a line is something else.
    """
    form = 'write one line per photo: {"photo": "a.jpg", "captions": ["..."]}'
    return {
        str(member(line, "photo", (str, int), where)): tuple(
            as_kind(caption, str, where) for caption in member(line, "captions", list, where)
        )
        for where, line in read_jsonl(file, form)
    }


def caption_shares(captions: Sequence[Sequence[str]], weight: float) -> Float[Tensor, "photos most"]:
    """How often each of a photo's captions is sampled, as running sums, infinite behind the photo's last one.

    A share is proportional to exp(weight * z), where z is the caption's mean CIDEr-D against the photo's other
    captions, in standard deviations from the photo's mean: people who say what others say too are heard more often.
    """
    frequency = DocumentFrequency.of(captions, agreement_words) if weight else None
    shares = torch.full((len(captions), max(map(len, captions), default=0)), torch.inf)
    for row, group in zip(shares, captions, strict=True):
        agreement = torch.tensor(
            expected_utility(group, "cider", frequency) if weight else [0.0] * len(group)
        )
        z = (agreement - agreement.mean()) / agreement.std(correction=0).clamp_min(1e-9)
        row[: len(group)] = (weight * z).softmax(0).cumsum(0)
    return shares


def photos_of_step(
    photos: int, count: int, seed: int, step: int, rank: int, world: int
) -> Int[Tensor, " count"]:
    """Which of the photos a process sees in a step: every photo once per epoch, in an order of its own."""
    per_step = count * world
    epoch, place = divmod(step, max(photos // per_step, 1))
    order = torch.randperm(photos, generator=generator_at(seed, 0, epoch))
    return order[(place * per_step + rank * count + torch.arange(count)) % photos]


def take_batch(
    examples: Examples, features: Features, config: TrainConfig, step: int, rank: int, world: int
) -> Batch:
    """The batch of a step: a pure function of seed, step and rank; every photo once per epoch."""
    with_text = round(config.text_only * config.photos)
    with_photo = config.photos - with_text
    chosen = photos_of_step(len(examples.rows), with_photo, config.seed, step, rank, world)
    generator = generator_at(config.seed, 1, step, rank)
    image = examples.tokens(chosen, features, generator)
    captions = examples.draw(chosen, config.copies, generator)
    if with_text:
        texts = len(examples.ids) - examples.text_first
        extra = examples.text_first + torch.randint(texts, (with_text * config.copies,), generator=generator)
        captions = torch.cat((captions, extra))
        image = torch.cat((image, torch.zeros(with_text, *image.shape[1:])))
    has_image = torch.arange(config.photos) < with_photo
    return Batch(image, has_image, examples.x0[captions].float(), examples.ids[captions])


def batches_of(
    examples: Examples, features: Features, config: TrainConfig, objective: Any
) -> Callable[[int, int, int], tuple[Any, ...]]:
    """What the objective is given at a step, as ``clearcap.training.loop.fit`` asks for it."""
    length, dim = examples.x0.shape[1:]

    def batch_at(step: int, rank: int, world: int) -> tuple[Any, ...]:
        batch = take_batch(examples, features, config, step, rank, world)
        draws = objective.sample(
            photos=config.photos,
            copies=config.copies,
            length=length,
            dim=dim,
            generator=generator_at(config.seed, 2, step, rank),
        )
        return *batch, draws

    return batch_at
