"""What every image encoder offers: photos in 0..1 to tokens, its own normalisation inside."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ImageEncoder(Protocol):
    """A module that turns photos into tokens.

    Attributes:
        dim: width of a token.
        tokens: how many of them a photo gives.
        image_size: side, in pixels, to which photos are squashed.
    """

    dim: int
    tokens: int
    image_size: int

    def settings(self) -> dict[str, Any]:
        """Plain values that rebuild the encoder, untrained: what `build_encoder` takes."""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens."""
