"""A word-by-word decoder with cross-attention to a photo's tokens, whose keys and values are kept while it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import ImageTokens
from clearcap.arrays.layers import CrossAttention, ImageAdapter, KeysValues, init_bert
from clearcap.config import check_choices, knob, require
from clearcap.diffusion.ladic import caption_loss


@dataclass(frozen=True)
class TwinConfig:
    """Sizes of the twin; the defaults are those of the compact denoiser."""

    width: int = knob(256, "channels")
    depth: int = knob(4, "layers")
    heads: int = knob(4, "attention heads")
    hidden: int = knob(768, "feed-forward channels")
    adapter_depth: int = knob(1, "layers that relate image tokens once per photo")
    dropout: float = knob(0.15, "dropout while training")
    image_dropout: float = knob(0.15, "dropout on image tokens while training")
    length: int = knob(20, "positions of a caption, [CLS] and [SEP] included")

    def __post_init__(self) -> None:
        check_choices(self)
        require(
            self.width % self.heads == 0, f"twin.width={self.width} is not a multiple of heads={self.heads}"
        )
        require(self.length >= 3, f"twin.length={self.length} leaves no room for a word; use at least 3")
        for name in ("dropout", "image_dropout"):
            require(0 <= getattr(self, name) < 1, f"twin.{name}={getattr(self, name)} must lie in [0, 1)")


class CausalAttention(nn.Module):
    """Self-attention of each position to itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(
        self, h: Float[Tensor, "batch new width"], past: KeysValues | None
    ) -> tuple[Float[Tensor, "batch new width"], KeysValues]:
        """Attend from the new positions to the past ones and to each other; returns all keys and values."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        new, every = q.shape[2], k.shape[2]
        mask = torch.ones(new, every, dtype=torch.bool, device=h.device).tril(every - new)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(
            -1, -2
        )  # fused attention's bf16 backward is slow on a CPU
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2)), (k, v)


class TwinBlock(nn.Module):
    """A pre-norm layer: causal self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, image_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm_self, self.norm_image, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.attend_self = CausalAttention(width, heads)
        self.attend_image = CrossAttention(width, heads, image_dim)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, h: Float[Tensor, "batch new width"], image: KeysValues, past: KeysValues | None
    ) -> tuple[Float[Tensor, "batch new width"], KeysValues]:
        """The layer, and the keys and values of its self-attention."""
        mixed, kept = self.attend_self(self.norm_self(h), past)
        h = h + self.drop(mixed)
        h = h + self.attend_image(self.norm_image(h), image)  # whose tokens have a dropout of their own
        return h + self.drop(self.down(F.gelu(self.up(self.norm_feed(h))))), kept


class Twin(nn.Module):
    """Writes a caption word by word, attending to a photo's tokens."""

    blocks: Any  # TwinBlocks; nn.Module's own typing would make each "Tensor or Module"

    def __init__(
        self,
        *,
        vocab: int,
        image_dim: int,
        tokens: int,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 768,
        adapter_depth: int = 1,
        dropout: float = 0.0,
        image_dropout: float = 0.0,
        length: int = 20,
    ) -> None:
        """Args:
        vocab: tokens it chooses among.
        image_dim: channels of an image token.
        tokens: image tokens of a photo.
        width, depth, heads, hidden, adapter_depth, dropout, image_dropout, length: see ``TwinConfig``.
        """
        super().__init__()
        self.length = length
        self.adapter = ImageAdapter(image_dim, tokens, adapter_depth, heads, image_dropout)
        self.words = nn.Embedding(vocab, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TwinBlock(width, heads, hidden, image_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocab))
        self.apply(init_bert)

    def image_context(self, image: ImageTokens) -> list[KeysValues]:
        """Keys and values of the photos, one entry a layer."""
        adapted = self.adapter(image)
        return [block.attend_image.keys_values(adapted) for block in self.blocks]

    def read(
        self,
        ids: Int[Tensor, "batch new"],
        context: list[KeysValues],
        past: list[KeysValues] | None = None,
    ) -> tuple[Float[Tensor, "batch new width"], list[KeysValues]]:
        """Vectors from which the tokens after the given ones are predicted.

        Args:
            ids: tokens; ``batch`` is photos * copies, photo-major.
            context: of ``image_context``.
            past: keys and values of the tokens before; None at the beginning.

        Returns:
            Vectors, and keys and values of all tokens so far.
        """
        start = past[0][0].shape[2] if past else 0
        h = self.drop(self.words(ids) + self.positions[start : start + ids.shape[1]])
        kept = []
        for i, block in enumerate(self.blocks):
            h, keys_values = block(h, context[i], past[i] if past else None)
            kept.append(keys_values)
        return self.norm(h), kept

    def logits(self, h: Float[Tensor, "... width"]) -> Float[Tensor, "... vocab"]:
        """Logits of the next token; the word matrix is that of the input."""
        return F.linear(h, self.words.weight, self.bias)

    def loss(
        self,
        ids: Int[Tensor, "batch length"],
        context: list[KeysValues],
        pad: int,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of every token that is not padding, given those before it, in nats."""
        h, _ = self.read(ids[:, :-1], context)
        wanted = ids[:, 1:]
        said = wanted != pad  # selected first: most of the time goes to the word matrix
        return caption_loss(self.logits(h[said])[None], wanted[said][None])


def build_twin(config: TwinConfig, *, vocab: int, image_dim: int, tokens: int) -> Twin:
    """An untrained twin."""
    return Twin(
        vocab=vocab,
        image_dim=image_dim,
        tokens=tokens,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        hidden=config.hidden,
        adapter_depth=config.adapter_depth,
        dropout=config.dropout,
        image_dropout=config.image_dropout,
        length=config.length,
    )
