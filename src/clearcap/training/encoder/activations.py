"""A cache of what an encoder's frozen lower stages give for photos, and of the untouched network's class logits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.data.ahead import ahead
from clearcap.data.features import square_view
from clearcap.data.images import to_square
from clearcap.data.writing import make_folder, new_array, whole_file, write_json
from clearcap.errors import InputError

Compute = Callable[[Float[Tensor, "batch 3 size size"]], tuple[Tensor, Tensor]]
"""Photos in 0..1 -> activations [batch, channels, h, w] and class logits [batch, classes]."""


@dataclass(frozen=True)
class Activations:
    """Lower-stage activations of photos in augmented views (view 0 is the photo itself).

    Attributes:
        grids: per view a float16 memory map [photos, h, w, channels].
        logits: per view a float16 memory map [photos, classes].
        names: photo ids, in order.
        block: the first block that is not in them.
    """

    grids: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    block: int

    def gather(
        self, views: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
    ) -> tuple[Float[Tensor, "photos channels h w"], Float[Tensor, "photos classes"]]:
        """The given views of the given photos, channels last in memory."""
        places = list(zip(views.tolist(), rows.tolist(), strict=True))
        grid = torch.from_numpy(np.stack([self.grids[view][row] for view, row in places]))
        logits = torch.from_numpy(np.stack([self.logits[view][row] for view, row in places]))
        return grid.permute(0, 3, 1, 2), logits.float()


def open_activations(folder: Path) -> Activations:
    """Open a cache.

    Raises:
        InputError: it is missing or unfinished.
    """
    try:
        about = json.loads((folder / "index.json").read_text())
        grids = tuple(np.load(folder / f"grid{v}.npy", mmap_mode="r") for v in range(about["views"]))
        logits = tuple(np.load(folder / f"logits{v}.npy", mmap_mode="r") for v in range(about["views"]))
    except (OSError, ValueError, KeyError) as fault:
        raise InputError(f"{folder}: no finished cache of activations ({fault}); make it again") from fault
    return Activations(grids, logits, tuple(about["photos"]), about["block"])


def make_activations(
    compute: Compute,
    photos: Sequence[tuple[str, Callable[[], Any]]],
    folder: Path,
    *,
    size: int,
    views: int,
    block: int,
    seed: int,
    advance: Callable[[int], None] = lambda photos: None,
    batch: int = 64,
) -> None:
    """Write a cache, view by view; a killed run goes on with the first unfinished view.

    Args:
        compute: the lower stages and the classifier.
        photos: id and a function that opens the RGB picture.
        folder: receives ``grid{view}.npy``, ``logits{view}.npy`` and, last, ``index.json``.
        size: pixels a side.
        views: views of each photo; view 0 is the photo, the others are random crops of it.
        block: where ``compute`` cuts; noted in the index.
        seed: of the crops.
        advance: told how many views were computed.
        batch: photos at once.
    """
    make_folder(folder)
    for view in range(views):
        if not (folder / f"logits{view}.npy").is_file():
            _make_view(compute, [opened for _, opened in photos], folder, view, size, seed, advance, batch)
    index = {"photos": [name for name, _ in photos], "views": views, "block": block}
    write_json(folder / "index.json", index)


def squared(
    photos: Sequence[Callable[[], Any]], size: int, batch: int
) -> Iterator[Float[Tensor, "batch 3 {size} {size}"]]:
    """Photos in 0..1, squashed to squares, some at once."""
    for start in range(0, len(photos), batch):
        squares = np.stack([to_square(opened(), size) for opened in photos[start : start + batch]])
        yield torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255


def _make_view(
    compute: Compute,
    photos: Sequence[Callable[[], Any]],
    folder: Path,
    view: int,
    size: int,
    seed: int,
    advance: Callable[[int], None],
    batch: int,
) -> None:
    def square(row: int) -> np.ndarray:
        return square_view(photos[row](), size, view, (seed, view, row))

    grids, logits = None, []
    threads = os.cpu_count() or 1
    squares = ahead(square, range(len(photos)), threads=threads, depth=batch + threads)
    for start in range(0, len(photos), batch):
        pixels = torch.from_numpy(np.stack(list(islice(squares, batch))))
        with torch.inference_mode():
            grid, classes = compute(pixels.permute(0, 3, 1, 2).float() / 255)
        made = grid.permute(0, 2, 3, 1).to(torch.float16).cpu().numpy()
        if grids is None:
            shape = (len(photos), *made.shape[1:])
            grids = new_array(folder / f"grid{view}.npy", np.float16, shape)
        grids[start : start + len(made)] = made
        logits.append(classes.to(torch.float16).cpu().numpy())
        advance(len(made))
    if grids is not None:
        grids.flush()
    # Written last and at once: its presence says that the view is whole.
    with whole_file(folder / f"logits{view}.npy") as fresh:
        np.save(fresh, np.concatenate(logits))
