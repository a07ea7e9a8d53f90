"""Going on from an encoder that was distilled before: towards another store's targets, and back to its axes."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearcap.errors import InputError
from clearcap.training.encoder.batches import to_floats
from clearcap.training.encoder.targets import TargetStore
from clearcap.vision.compact import CompactEncoder, load_compact

FITTED_PHOTOS = 1000  # 49,000 tokens, for the 65,792 numbers of the output layer
RIDGE = 100.0  # in tokens: as if so many had a target of zero


def start_from(folder: str | Path, encoder: CompactEncoder, store: TargetStore, rows: Tensor) -> None:
    """Give `encoder` the weights in `folder`, its output layer fitted to the targets of the store.

    Two stores seldom have the same basis (the sign of a principal component is arbitrary), so the output layer is
    the ridge regression from the features below it to the targets of photos 0 to `FITTED_PHOTOS` of `rows`.

    Raises:
        InputError: no encoder there, or one of another shape.
    """
    other = load_like(folder, encoder)
    encoder.load_state_dict(other.state_dict())
    other.head = nn.Identity()  # type: ignore[assignment]
    targets = torch.from_numpy(store.tokens[0, rows[:FITTED_PHOTOS].numpy()]).flatten(0, 1).double()
    inputs = tokens_of(other, store, rows)
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    with torch.no_grad():
        encoder.head.weight.copy_(weight.T)
        encoder.head.bias.copy_(targets.mean(0) - inputs.mean(0) @ weight)


def load_like(folder: str | Path, encoder: CompactEncoder) -> CompactEncoder:
    """The encoder in `folder`.

    Raises:
        InputError: no encoder there, or one of another shape than `encoder`.
    """
    other = load_compact(folder)
    if other.settings() != encoder.settings():
        raise InputError(f"{folder}: an encoder of {other.settings()}; pass these settings, or another init")
    return other


def turn_to(folder: str | Path, encoder: CompactEncoder, store: TargetStore, rows: Tensor) -> None:
    """Turn an encoder's tokens to the axes of the encoder in `folder`, so that what was trained on those can go on.

    The rotation is the one that brings the tokens of the first `FITTED_PHOTOS` of `rows` nearest to the other's; it
    goes into the output layer.
    """
    rotation = turning(*(tokens_of(one, store, rows) for one in (encoder, load_compact(folder))))
    with torch.no_grad():
        encoder.head.weight.copy_(rotation.T @ encoder.head.weight.double())
        encoder.head.bias.copy_(encoder.head.bias.double() @ rotation)


def turning(
    own: Float[Tensor, "samples dim"], wanted: Float[Tensor, "samples dim"]
) -> Float[Tensor, "dim dim"]:
    """The rotation that brings `own` nearest to `wanted` (orthogonal Procrustes, Schoenemann 1966)."""
    left, _, right = torch.linalg.svd(own.T @ wanted)
    return left @ right


@torch.inference_mode()
def tokens_of(encoder: CompactEncoder, store: TargetStore, rows: Tensor) -> Float[Tensor, "samples dim"]:
    """What an encoder says of the first `FITTED_PHOTOS` of `rows`, all tokens in one list, in float64."""
    parts = rows[:FITTED_PHOTOS].split(64)
    tokens = [encoder(to_floats(store.images[0, part.numpy()])) for part in parts]
    return torch.cat(tokens).flatten(0, 1).double()
