"""CLIP-Diffusion-LM's text space: a frozen word embedding that both encodes and, tied, decodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from clearcap.arrays import Latents, Logits, TokenIds
from clearcap.config import TextConfig
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

    @classmethod
    def build(cls, text: TextConfig, sizes: dict[str, Any], tokens: dict[str, int]) -> EmbeddingSpace:
        """A space of random embeddings; arguments as for ``TextSpace.build``."""
        return cls(
            vocab=sizes["vocab_size"],
            dim=sizes["dim"],
            pad_id=tokens["pad"],
            cls_id=tokens["cls"],
            sep_id=tokens["sep"],
        )

    @classmethod
    def sizes_of(cls, pretrained: Any) -> dict[str, Any]:
        """Rows and channels of the word embedding."""
        vocab, dim = pretrained.get_input_embeddings().weight.shape
        return {"vocab_size": vocab, "dim": dim}

    @torch.no_grad()
    def encode(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """Word embeddings, [PAD]'s where the caption has ended."""
        return self.embedding(ids)

    def decode(self, x: Latents) -> Logits:
        """Products with every word's embedding, without a bias."""
        return F.linear(x, self.embedding.weight.to(x.dtype))

    def targets(self, ids: TokenIds) -> TokenIds:
        """The caption itself, [CLS], [SEP] and [PAD] included."""
        return ids

    @torch.no_grad()
    def fit(self, ids: TokenIds, mask: TokenIds, text: TextConfig, tokenizer: Any) -> None:
        """Scale the embeddings so that each channel of the corpus has mean 0 and variance 1, where ``text`` says so.

        The paper leaves DistilBERT's embeddings as they are, of a deviation of 0.05 under noise of 1.
        """
        if text.normalise:
            weight = self.embedding.weight
            seen = torch.bincount(ids[mask.bool()], minlength=len(weight)).to(weight.dtype)  # of each token
            weight -= seen @ weight / seen.sum()
            weight /= (seen @ weight.square() / (seen.sum() - 1)).sqrt()

    @torch.no_grad()
    def copy_weights(self, pretrained: Any) -> None:
        """Take over a pretrained model's word embedding.

        Raises:
            InputError: it has another size.
        """
        mine, weight = self.embedding.weight, pretrained.get_input_embeddings().weight
        if weight.shape != mine.shape:
            raise InputError(
                f"a word embedding of shape {tuple(weight.shape)} does not fit {tuple(mine.shape)}; "
                "pass the model the text settings name"
            )
        mine.copy_(weight)
