"""What every text space offers: caption ids to a clean latent x0, and a latent back to token logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from clearcap.arrays import Latents, Logits, TokenIds
from clearcap.config import TextConfig
from clearcap.errors import InputError


class TextSpace(nn.Module, ABC):
    """What a diffusion captioner needs to know about text.

    A kind of text space is a subclass; the registry holds it by name.

    Attributes:
        dim: channels of a latent.
        special_ids: token ids that are not words ([PAD], [CLS], [SEP], and what stands for them).
        filler_id: the token that stands for every special position in the caption loss.
        pretrained_class: name of the transformers class that ``text.source`` is loaded as.
    """

    dim: int
    special_ids: tuple[int, ...]
    filler_id: int
    pretrained_class: str = "AutoModelForMaskedLM"

    @classmethod
    @abstractmethod
    def build(cls, text: TextConfig, sizes: dict[str, Any], tokens: dict[str, int]) -> TextSpace:
        """An untrained text space.

        Args:
            text: settings.
            sizes: what ``sizes_of`` gave.
            tokens: ids of the special tokens: pad, cls, sep, filler, mask.

        Raises:
            InputError: impossible settings.
        """

    @classmethod
    @abstractmethod
    def sizes_of(cls, pretrained: Any) -> dict[str, Any]:
        """Plain values that rebuild the text space of a pretrained model without its weights."""

    @abstractmethod
    def copy_weights(self, pretrained: Any) -> None:
        """Take over a pretrained model's weights, which has the sizes that this space was built with."""

    def language_model(self) -> Any:
        """The pretrained model that ``copy_weights`` took over, for another captioner to start from.

        Raises:
            InputError: this space did not keep all of it.
        """
        raise InputError(
            f"{type(self).__name__} is no whole language model; pass text.source of another captioner"
        )

    def fit(
        self,
        ids: Int[Tensor, "captions length"],
        mask: Int[Tensor, "captions length"],
        text: TextConfig,
        tokenizer: Any,
    ) -> None:
        """What the space learns from a tokenised corpus before training; nothing unless a subclass says otherwise."""

    @abstractmethod
    def encode(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """The clean latent x0 of captions."""

    @abstractmethod
    def decode(self, x: Latents) -> Logits:
        """Token logits of (predicted) clean latents."""

    @abstractmethod
    def targets(self, ids: TokenIds) -> TokenIds:
        """The token ids the caption loss asks for."""
