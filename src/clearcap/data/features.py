"""A cache of image tokens on disk: each photo is encoded once, however long training lasts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.errors import InputError


@dataclass(frozen=True)
class Features:
    """Image tokens of photos, each in one or more augmented views (view 0 is the photo itself).

    Attributes:
        tokens: float16 memory map [views, photos, tokens, dim].
        names: photo ids, in order.
        source: the encoder that made them.
    """

    tokens: np.ndarray
    names: tuple[str, ...]
    source: str

    def rows(self, names: Sequence[str]) -> Int[Tensor, " photos"]:
        """Positions of photos.

        Raises:
            InputError: a photo is not in the cache.
        """
        places = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in places]
        if missing:
            raise InputError(
                f"{len(missing)} photos, {missing[0]} first, are not in the feature cache; "
                "delete the cache folder to rebuild it"
            )
        return torch.tensor([places[name] for name in names])

    def gather(
        self, views: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
    ) -> Float[Tensor, "photos tokens dim"]:
        """Tokens of the given views of the given photos, float32."""
        return torch.from_numpy(self.tokens[views.numpy(), rows.numpy()].astype(np.float32))


def open_features(folder: Path) -> Features:
    """Open a cache.

    Raises:
        InputError: it is missing or its parts disagree.
    """
    try:
        about = json.loads((folder / "index.json").read_text())
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    except (OSError, ValueError) as fault:
        raise InputError(
            f"{folder}: no readable feature cache ({fault}); make it with clearcap train"
        ) from fault
    if tokens.ndim != 4 or tokens.shape[1] != len(about["photos"]):
        raise InputError(
            f"{folder}: {len(about['photos'])} names but tokens of shape {tokens.shape}; delete the folder"
        )
    return Features(tokens, tuple(about["photos"]), about["source"])


def flip(tokens: Float[Tensor, "photos tokens dim"]) -> Float[Tensor, "photos tokens dim"]:
    """Tokens of the mirrored photo, taken as the mirrored grid (exact for an encoder that treats sides alike)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (side, side)).flip(2).flatten(1, 2)
