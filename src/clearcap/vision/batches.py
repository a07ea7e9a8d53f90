"""Training batches for distillation: photos and targets drawn from the store, a function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from clearcap.errors import InputError
from clearcap.vision import objective
from clearcap.vision.compact import STRIDE
from clearcap.vision.targets import TargetStore


class RawBatch(NamedTuple):
    """One step's photos and targets as stored."""

    images: UInt8[Tensor, "batch 3 height width"]
    tokens: Float[Tensor, "batch tokens dim"]
    logits: Float[Tensor, "batch classes"]
    words: Float[Tensor, "batch words"]
    known: Bool[Tensor, " batch"]


class Batch(NamedTuple):
    """One step's photos and targets, augmented, at the size of the moment."""

    images: Float[Tensor, "batch 3 height width"]
    tokens: Float[Tensor, "batch tokens dim"]
    logits: Float[Tensor, "batch classes"]
    words: Float[Tensor, "batch words"]
    known: Bool[Tensor, " batch"]


class Data:
    """The target store with word targets, split into training and held-out photos."""

    def __init__(
        self,
        store: TargetStore,
        held_out: set[str],
        captions: dict[str, list[str]],
        captioned: set[str],
        words: int,
    ) -> None:
        """Index the store.

        Args:
            store: photos and what the teacher says about them.
            held_out: names of photos never to train on.
            captions: captions by photo name.
            captioned: names of the photos whose captions may be trained on.
            words: how many caption words to predict.
        """
        self.store = store
        names = [photo.name for photo in store.photos]
        self.held_out = [i for i, name in enumerate(names) if name in held_out]
        self.rows = torch.tensor([i for i, name in enumerate(names) if name not in held_out])
        train = {name: captions[name] for name in captions if name in captioned - held_out}
        self.vocabulary = objective.frequent_words((t for ts in train.values() for t in ts), words)
        shares = torch.from_numpy(objective.word_shares(train, names, self.vocabulary))
        self.known = torch.tensor([name in train for name in names])
        self.words = shares.nan_to_num()
        own = [names[i] for i in self.held_out]
        self.held_out_words = objective.word_shares(captions, own, self.vocabulary) > 0

    def batch(self, step: int, size: int, views: int, seed: int) -> RawBatch:
        """`size` photos for a step, by seed and step alone, so that a resumed run sees the same.

        Raises:
            InputError: fewer photos than a batch.
        """
        per_epoch = len(self.rows) // size
        if not per_epoch:
            raise InputError(f"{len(self.rows)} photos to train on, fewer than batch={size}; lower batch")
        epoch, place = divmod(step, per_epoch)
        shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=shuffle)
        rows = self.rows[order[place * size : (place + 1) * size]]
        chosen = torch.randint(views, rows.shape, generator=step_generator(seed, step))
        index = (chosen.numpy(), rows.numpy())
        return RawBatch(
            torch.from_numpy(self.store.images[index]).permute(0, 3, 1, 2),
            torch.from_numpy(self.store.tokens[index]).float(),
            torch.from_numpy(self.store.logits[index]).float(),
            self.words[rows],
            self.known[rows],
        )

    def batches(self, start: int, size: int, views: int, seed: int) -> Iterator[RawBatch]:
        """Batches from step `start` on, the next one read while the last one is in use."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.batch, start, size, views, seed)
            for step in range(start + 1, 2**31):
                ready, coming = coming.result(), pool.submit(self.batch, step, size, views, seed)
                yield ready


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of randomness of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + step)


def prepare(raw: RawBatch, image_size: int, generator: torch.Generator) -> Batch:
    """Photos at `image_size` pixels, targets pooled to their smaller grid, both augmented."""
    images, tokens, grid = raw.images, raw.tokens, image_size // STRIDE
    if images.shape[-1] != image_size:
        images = F.interpolate(images, (image_size, image_size), mode="bilinear", antialias=True)
        side = round(tokens.shape[1] ** 0.5)
        square = tokens.transpose(1, 2).unflatten(2, (side, side))
        tokens = F.adaptive_avg_pool2d(square, grid).flatten(2).transpose(1, 2)
    floats, tokens = objective.augment(images.float().div_(255), tokens, grid, generator)
    return Batch(floats, tokens, raw.logits, raw.words, raw.known)


def to_floats(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Stored photos as 0..1 floats, channels first (last in memory)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(255)


def read_names(path: str) -> set[str]:
    """The lines of a text file; nothing for "".

    Raises:
        InputError: the file is absent.
    """
    if not path:
        return set()
    if not Path(path).is_file():
        raise InputError(f"{path}: no such list of photo names; pass a text file with one name a line")
    return set(Path(path).read_text(encoding="utf-8").split())
