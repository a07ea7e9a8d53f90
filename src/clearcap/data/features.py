"""A cache of image tokens on disk: each photo is encoded once, however long training lasts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from clearcap.data.images import to_square
from clearcap.data.writing import make_folder, new_array, write_json
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


def make_features(
    encode: Callable[[Tensor], Tensor],
    photos: Sequence[tuple[str, Callable[[], Any]]],
    folder: Path,
    *,
    size: int,
    views: int,
    seed: int,
    advance: Callable[[int], None] = lambda photos: None,
    batch: int = 32,
) -> None:
    """Encode photos in ``views`` views each and write a cache; view 0 is the photo, the others random crops of it.

    Args:
        encode: photos [batch, 3, size, size] in 0..1 -> tokens.
        photos: id and a function that opens the RGB picture.
        folder: where ``tokens.npy`` and ``index.json`` go; the index is written last.
        size: pixels a side.
        views: views of each photo.
        seed: of the crops.
        advance: told how many views were encoded.
        batch: photos encoded at once.
    """
    make_folder(folder)
    store: np.ndarray | None = None

    def square(place: tuple[int, int]) -> np.ndarray:
        view, row = place
        return square_view(photos[row][1](), size, view, (seed, view, row))

    wanted = [(view, row) for view in range(views) for row in range(len(photos))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(wanted), batch):
            group = wanted[start : start + batch]
            pixels = torch.from_numpy(np.stack(list(pool.map(square, group))))
            with torch.inference_mode():
                tokens = encode(pixels.permute(0, 3, 1, 2).float() / 255).cpu().numpy()
            if store is None:
                shape = (views, len(photos), *tokens.shape[1:])
                store = new_array(folder / "tokens.npy", np.float16, shape)
            store.reshape(len(wanted), *tokens.shape[1:])[start : start + len(group)] = tokens
            advance(len(group))
    write_json(folder / "index.json", {"photos": [name for name, _ in photos], "source": "encode"})


def square_view(picture: Any, size: int, view: int, seed: Sequence[int]) -> UInt8[np.ndarray, "size size 3"]:
    """A view of a photo, squashed to a square: view 0 is the photo itself, the others are random crops of it."""
    return to_square(_crop(picture, np.random.default_rng(seed)) if view else picture, size)


def _crop(picture: Any, rng: np.random.Generator) -> Any:
    """A random rectangle of 35% to 100% of the area, squashed later like any photo."""
    width, height = picture.size
    share = rng.uniform(0.35, 1.0)
    stretch = np.exp(rng.uniform(-0.3, 0.3))
    w = min(width, max(8, round(width * np.sqrt(share) * stretch)))
    h = min(height, max(8, round(height * np.sqrt(share) / stretch)))
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return picture.crop((int(x), int(y), int(x + w), int(y + h)))


def flip(tokens: Float[Tensor, "photos tokens dim"]) -> Float[Tensor, "photos tokens dim"]:
    """Tokens of the mirrored photo, taken as the mirrored grid (exact for an encoder that treats sides alike)."""
    side = math.isqrt(tokens.shape[1])
    first = tokens.shape[1] - side * side  # class tokens stay
    grid = tokens[:, first:].unflatten(1, (side, side)).flip(2).flatten(1, 2)
    return torch.cat((tokens[:, :first], grid), 1) if first else grid
