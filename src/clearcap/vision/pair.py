"""Two encoders that know different things: the compact one's tokens, and what an ImageNet network adds to them."""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clearcap.errors import InputError
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.efficientnet import EfficientNetEncoder
from clearcap.vision.trained import TrainedEncoder


class PairedEncoder(TrainedEncoder):
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
        parts = settings_of_both(self.compact, self.efficientnet)
        return {"dim": self.dim, "image_size": self.image_size, **parts}

    def folded(self) -> PairedEncoder:
        """A copy for inference, batch norms merged into convolutions."""
        folded = copy.deepcopy(self)
        folded.compact, folded.efficientnet = self.compact.folded(), self.efficientnet.folded()
        return folded.eval()


def settings_of_both(compact: CompactEncoder, efficientnet: EfficientNetEncoder) -> dict[str, dict[str, Any]]:
    """What builds a pair of these two, but for what they have in common."""
    common = ("dim", "image_size")
    return {
        name: {key: value for key, value in part.settings().items() if key not in common}
        for name, part in (("compact", compact), ("efficientnet", efficientnet))
    }
