"""CLIP-Diffusion-LM's text space: a frozen word embedding that both encodes and, tied, decodes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.errors import InputError
from clearcap.text.interface import TextSpace


class EmbeddingSpace(TextSpace):
    """A caption is its tokens' pretrained embeddings; logits are their products with a prediction."""

    def __init__(self, *, vocab: int, dim: int, pad_id: int, cls_id: int, sep_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.embedding.requires_grad_(False)
        self.dim = dim
        self.pad_id = pad_id
        self.filler_id = pad_id
        self.special_ids = tuple(sorted({pad_id, cls_id, sep_id}))

    @torch.no_grad()
    def encode(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """Word embeddings, [PAD]'s where the caption has ended."""
        return self.embedding(ids)

    def decode(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length vocab"]:
        """Products with every word's embedding, without a bias."""
        return F.linear(x, self.embedding.weight.to(x.dtype))

    def targets(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The caption itself, [CLS], [SEP] and [PAD] included."""
        return ids

    @torch.no_grad()
    def set_words(self, weight: Float[Tensor, "vocab dim"]) -> None:
        """Take over a pretrained word embedding.

        Raises:
            InputError: it has another size.
        """
        mine = self.embedding.weight
        if weight.shape != mine.shape:
            raise InputError(
                f"a word embedding of shape {tuple(weight.shape)} does not fit {tuple(mine.shape)}; "
                "pass the model the text settings name"
            )
        mine.copy_(weight)
