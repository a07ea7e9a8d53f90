"""Where a captioner's words look: the cross-attention of its denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.arrays.layers import CrossAttention
from clearcap.errors import InputError


@contextmanager
def recorded_attention(denoiser: Any) -> Iterator[list[Float[Tensor, "length tokens"]]]:
    """The attention weights of the first caption, at each layer, of the last call made within the block.

    The list is filled when the block ends: one entry a layer, averaged over its heads, rows sum to 1.

    Args:
        denoiser: of a captioner; one block at a time.

    Raises:
        InputError: it has no cross-attention (it is told a photo as one vector).
    """
    layers = [layer for layer in denoiser.modules() if isinstance(layer, CrossAttention)]
    if not layers:
        raise InputError("this model has no attention to a photo's parts to show; use one that has")
    last: dict[CrossAttention, Tensor] = {}
    found: list[Tensor] = []

    def note(layer: CrossAttention, given: tuple[Any, ...]) -> None:
        h, (k, _) = given
        q = layer.q(h[:1]).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        weights = (q * q.shape[-1] ** -0.5) @ k[:1].transpose(-1, -2)
        last[layer] = weights.float().softmax(-1).mean(1)[0]

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    found += [last[layer] for layer in layers]


def on_grid(weights: Float[Tensor, "words tokens"]) -> Float[Tensor, "words grid grid"]:
    """Weights of image tokens laid out as they lie on the photo, top left first; a class token before them is left out.

    Raises:
        InputError: the tokens are not those of a square grid.
    """
    tokens = weights.shape[-1]
    side = int(tokens**0.5)
    if tokens - side * side > 1 or side < 2:
        raise InputError(f"the {tokens} image tokens of this model are not a square grid; nothing to lay out")
    return weights[:, tokens - side * side :].unflatten(-1, (side, side))


@torch.inference_mode()
def mean_attention(layers: list[Float[Tensor, "length tokens"]]) -> Float[Tensor, "length tokens"]:
    """The mean over layers."""
    return torch.stack(layers).mean(0)
