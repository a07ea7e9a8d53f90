"""What every text space offers: caption ids to a clean latent x0, and a latent back to token logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn


class TextSpace(nn.Module, ABC):
    """What a diffusion captioner needs to know about text.

    Attributes:
        dim: channels of a latent.
        special_ids: token ids that are not words ([PAD], [CLS], [SEP], and what stands for them).
        filler_id: the token that stands for every special position in the caption loss.
    """

    dim: int
    special_ids: tuple[int, ...]
    filler_id: int

    @abstractmethod
    def encode(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """The clean latent x0 of captions."""

    @abstractmethod
    def decode(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length vocab"]:
        """Token logits of (predicted) clean latents."""

    @abstractmethod
    def targets(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The token ids the caption loss asks for."""
