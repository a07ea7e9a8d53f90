"""What every image encoder offers: photos in 0..1 to tokens, its own normalisation inside."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clearcap.config import VisionConfig


@runtime_checkable
class ImageEncoder(Protocol):
    """A module that turns photos into tokens. A kind of encoder is a class; the registry holds it by name.

    Attributes:
        dim: width of a token.
        tokens: how many of them a photo gives.
        image_size: side, in pixels, to which photos are squashed.
    """

    dim: int
    tokens: int
    image_size: int

    @classmethod
    def build(cls, vision: VisionConfig, settings: dict[str, Any]) -> ImageEncoder:
        """An untrained encoder, for loading a saved state into; ``settings`` are what ``settings()`` gave, or empty."""

    @classmethod
    def load(cls, vision: VisionConfig) -> ImageEncoder:
        """The trained encoder that ``vision.source`` names. Raises InputError."""

    def settings(self) -> dict[str, Any]:
        """Plain values that rebuild the encoder, untrained: what ``build`` takes."""

    def folded(self) -> ImageEncoder:
        """The encoder for inference, with what can be computed beforehand merged; itself where nothing can."""

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens."""
