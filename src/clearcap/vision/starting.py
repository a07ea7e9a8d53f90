"""Going on from an encoder that was distilled before, towards the targets of another store."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearcap.errors import InputError
from clearcap.vision.batches import to_floats
from clearcap.vision.compact import CompactEncoder, load_compact
from clearcap.vision.targets import TargetStore

FITTED_PHOTOS = 1000  # 49,000 tokens, for the 65,792 numbers of the output layer
RIDGE = 100.0  # in tokens: as if so many had a target of zero


def start_from(folder: str | Path, encoder: CompactEncoder, store: TargetStore, rows: Tensor) -> None:
    """Give `encoder` the weights in `folder`, its output layer fitted to the targets of the store.

    Two stores seldom have the same basis (the sign of a principal component is arbitrary), so the output layer is
    the ridge regression from the features below it to the targets of photos 0 to `FITTED_PHOTOS` of `rows`.

    Raises:
        InputError: no encoder there, or one of another shape.
    """
    other = load_compact(folder)
    if other.settings() != encoder.settings():
        raise InputError(f"{folder}: an encoder of {other.settings()}; pass these settings, or another init")
    encoder.load_state_dict(other.state_dict())
    rows = rows[:FITTED_PHOTOS]
    other.head = nn.Identity()  # type: ignore[assignment]
    with torch.inference_mode():
        features = torch.cat([other(to_floats(store.images[0, part.numpy()])) for part in rows.split(64)])
    targets = torch.from_numpy(store.tokens[0, rows.numpy()])
    weight, bias = ridge(features.flatten(0, 1).double(), targets.flatten(0, 1).double())
    with torch.no_grad():
        encoder.head.weight.copy_(weight.T)
        encoder.head.bias.copy_(bias)


def ridge(
    inputs: Float[Tensor, "samples dim"], targets: Float[Tensor, "samples kept"]
) -> tuple[Float[Tensor, "dim kept"], Float[Tensor, " kept"]]:
    """Weight and bias of the ridge regression from inputs to targets."""
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return weight, targets.mean(0) - inputs.mean(0) @ weight
