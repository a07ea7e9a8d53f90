"""Two encoders that know different things: the compact one's tokens, and what an ImageNet network adds to them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clearcap.errors import InputError
from clearcap.vision.compact import CompactEncoder, fold
from clearcap.vision.efficientnet import EfficientNetEncoder, fold_batch_norms


class PairedEncoder(nn.Module):
    """Photos to the sum of two grids of tokens."""

    def __init__(
        self,
        dim: int = 256,
        image_size: int = 224,
        compact: dict[str, Any] | None = None,
        efficientnet: dict[str, Any] | None = None,
    ) -> None:
        """An untrained pair.

        Args:
            dim: width of the output tokens.
            image_size: side of the photos, in pixels.
            compact, efficientnet: further arguments of ``CompactEncoder`` and ``EfficientNetEncoder``.

        Raises:
            InputError: the two give different grids.
        """
        super().__init__()
        self.compact: Any = CompactEncoder(dim=dim, image_size=image_size, **(compact or {}))
        self.efficientnet: Any = EfficientNetEncoder(dim=dim, image_size=image_size, **(efficientnet or {}))
        self.dim, self.image_size, self.tokens = dim, image_size, self.compact.tokens
        if self.efficientnet.tokens != self.tokens:
            raise InputError(
                f"the encoders make {self.tokens} and {self.efficientnet.tokens} tokens of a photo"
            )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens, row by row of the grid."""
        tokens: Tensor = self.compact(images) + self.efficientnet(images)
        return tokens

    def settings(self) -> dict[str, Any]:
        """Plain values from which the constructor makes an untrained copy."""
        own = {"dim": self.dim, "image_size": self.image_size}
        parts = {"compact": self.compact.settings(), "efficientnet": self.efficientnet.settings()}
        return own | {
            name: {key: value for key, value in part.items() if key not in own}
            for name, part in parts.items()
        }

    def folded(self) -> PairedEncoder:
        """A copy for inference, batch norms merged into convolutions."""
        settings = self.settings()
        copy = PairedEncoder(**settings)
        copy.compact, copy.efficientnet = fold(self.compact), fold_batch_norms(self.efficientnet)
        return copy.eval().requires_grad_(False)
