"""Training batches for distillation: photos and targets drawn from the store, a function of seed and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from clearcap.data.ahead import ahead
from clearcap.errors import InputError
from clearcap.training.encoder import objective
from clearcap.training.encoder.targets import TargetStore
from clearcap.vision.compact import STRIDE


class Batch(NamedTuple):
    """One step's photos and targets: bytes as stored, or numbers in 0..1 at the size of the moment."""

    images: Shaped[Tensor, "batch 3 height width"]
    tokens: Float[Tensor, "batch tokens dim"]
    logits: Float[Tensor, "batch classes"]
    words: Float[Tensor, "batch words"]
    known: Bool[Tensor, " batch"]


class Split:
    """Which photos are trained on, and the caption words of each."""

    def __init__(
        self,
        names: Sequence[str],
        held_out: set[str],
        captions: dict[str, list[str]],
        captioned: set[str],
        words: int,
    ) -> None:
        """Index the photos.

        Args:
            names: of all photos.
            held_out: names of photos never to train on.
            captions: captions by photo name.
            captioned: names of the photos whose captions may be trained on.
            words: how many caption words to predict.
        """
        self.held_out = [i for i, name in enumerate(names) if name in held_out]
        self.rows = torch.tensor([i for i, name in enumerate(names) if name not in held_out])
        train = {name: captions[name] for name in captions if name in captioned - held_out}
        self.vocabulary = objective.frequent_words((t for ts in train.values() for t in ts), words)
        shares = torch.from_numpy(objective.word_shares(train, names, self.vocabulary))
        self.known = torch.tensor([name in train for name in names])
        self.words = shares.nan_to_num()
        own = [names[i] for i in self.held_out]
        self.held_out_words = objective.word_shares(captions, own, self.vocabulary) > 0

    def rows_of(self, step: int, size: int, seed: int) -> Int[Tensor, " size"]:
        """The photos of a step, by seed and step alone; every photo once per epoch.

        Raises:
            InputError: fewer photos than a batch.
        """
        per_epoch = len(self.rows) // size
        if not per_epoch:
            raise InputError(f"{len(self.rows)} photos to train on, fewer than batch={size}; lower batch")
        epoch, place = divmod(step, per_epoch)
        shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=shuffle)
        return self.rows[order[place * size : (place + 1) * size]]


class Data:
    """A store of views and targets, made beforehand."""

    def __init__(self, split: Split, store: TargetStore, views: int, seed: int) -> None:
        """Args:
        split: of the store's photos.
        store: views and targets.
        views: of each photo that are trained on.
        seed: of everything random.
        """
        self.split, self.store, self.views, self.seed = split, store, views, seed
        self.grid, self.size, self.classes = store.grid, store.size, store.logits.shape[2]

    def held(self, size: int) -> tuple[Iterator[Tensor], Tensor, Tensor]:
        """The held-out photos in batches of `size`, their targets and the teacher's logits of them."""
        rows, store = np.array(self.split.held_out, dtype=int), self.store
        parts = np.split(rows, range(size, len(rows), size))
        tokens, logits = torch.from_numpy(store.tokens[0, rows]), torch.from_numpy(store.logits[0, rows])
        return (to_floats(store.images[0, part]) for part in parts), tokens.float(), logits.float()

    def batch(self, step: int, size: int) -> Batch:
        """`size` photos as stored for a step, by seed and step alone, so that a resumed run sees the same.

        Raises:
            InputError: fewer photos than a batch.
        """
        rows = self.split.rows_of(step, size, self.seed)
        chosen = torch.randint(self.views, rows.shape, generator=step_generator(self.seed, step))
        index = (chosen.numpy(), rows.numpy())
        return Batch(
            torch.from_numpy(self.store.images[index]).permute(0, 3, 1, 2),
            torch.from_numpy(self.store.tokens[index]).float(),
            torch.from_numpy(self.store.logits[index]).float(),
            self.split.words[rows],
            self.split.known[rows],
        )

    def batches(self, start: int, size: int, image_size: Callable[[], int]) -> Iterator[Batch]:
        """Batches from step `start` on, `prepare`d for the size of the moment; the next one is read meanwhile."""
        stored = ahead(lambda step: self.batch(step, size), range(start, 2**31), threads=1, depth=1)
        for step, raw in enumerate(stored, start):
            yield prepare(raw, image_size(), step_generator(self.seed + 1, step))


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The source of randomness of one step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + 500_000 + step)


def prepare(raw: Batch, image_size: int, generator: torch.Generator) -> Batch:
    """Photos at `image_size` pixels, targets pooled to their smaller grid, both augmented."""
    images, tokens = shrunk(raw.images, raw.tokens, image_size)
    images, tokens = objective.augment(to_unit(images), tokens, image_size // STRIDE, generator)
    return raw._replace(images=images, tokens=tokens)


def shrunk(
    images: Shaped[Tensor, "batch 3 height width"], tokens: Float[Tensor, "batch tokens dim"], image_size: int
) -> tuple[Shaped[Tensor, "batch 3 size size"], Float[Tensor, "batch fewer dim"]]:
    """Photos at `image_size` pixels and targets pooled to their smaller grid; as they are where they have that size."""
    if images.shape[-1] == image_size:
        return images, tokens
    images = F.interpolate(images, (image_size, image_size), mode="bilinear", antialias=True)
    side = round(tokens.shape[1] ** 0.5)
    square = tokens.transpose(1, 2).unflatten(2, (side, side))
    return images, F.adaptive_avg_pool2d(square, image_size // STRIDE).flatten(2).transpose(1, 2)


def to_unit(photos: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Bytes as numbers in 0..1."""
    return photos.float().div_(255)


def to_floats(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Stored photos as 0..1 floats, channels first (last in memory)."""
    return to_unit(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2))


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
