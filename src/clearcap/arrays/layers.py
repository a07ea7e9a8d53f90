"""Attention, feed-forward and time-embedding layers in torch."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import Context, ImageTokens

Hidden = Float[Tensor, "batch length width"]
"""What flows through a transformer's layers."""
KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [photos, heads, image tokens, head dim]."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention over [batch, heads, length, head dim].

    Training in bf16 on a CPU takes the plain product instead of the fused kernel, whose bf16 backward is
    4 to 9 times slower there at caption lengths (LOG.md, "attention backward on a CPU").
    """
    if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and not dropout:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def hide_photos(context: Context, null: Context, keep: Bool[Tensor, " photos"]) -> Context:
    """The null context where a photo is not kept."""
    return [
        tuple(
            torch.where(keep.view(-1, *[1] * (part.ndim - 1)), part, nothing)
            for part, nothing in zip(layer, none, strict=True)
        )
        for layer, none in zip(context, null, strict=True)
    ]


class SelfAttention(nn.Module):
    """Bidirectional attention among a caption's positions, without a mask unless one is given."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Hidden, mask: Tensor | None = None) -> Hidden:
        """Mix positions; where the mask is False nothing is attended to."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        a = attend(q, k, v, mask, p)
        return self.out(a.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention from caption positions to a photo's tokens, whose keys and values are made once."""

    def __init__(self, width: int, heads: int, image_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(image_dim, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, image: ImageTokens) -> KeysValues:
        """Keys and values of photos, [photos, heads, image tokens, head dim] each."""
        k, v = self.kv(image).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, h: Hidden, keys_values: KeysValues) -> Hidden:
        """``batch`` is photos * copies, photo-major: all copies of a photo share its keys and values."""
        k, v = keys_values
        photos, (batch, length, _) = k.shape[0], h.shape
        q = self.q(h).view(photos, -1, self.heads, k.shape[-1]).transpose(1, 2)
        p = self.dropout if self.training else 0.0
        a = attend(q, k, v, None, p)
        return self.out(a.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """A post-norm transformer layer in BERT's order: self-attention, cross-attention if any, feed-forward."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        image_dim: int | None,
        dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.attend_self = SelfAttention(width, heads, dropout)
        self.norm_self = nn.LayerNorm(width, eps=eps)
        self.attend_image = CrossAttention(width, heads, image_dim, dropout) if image_dim else None
        self.norm_image = nn.LayerNorm(width, eps=eps) if image_dim else None
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm_out = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Hidden, keys_values: KeysValues | None = None, mask: Tensor | None = None) -> Hidden:
        """One layer. Raises ValueError where it attends to photos and gets no keys and values."""
        h = self.norm_self(h + self.drop(self.attend_self(h, mask)))
        if self.attend_image is not None and self.norm_image is not None:
            if keys_values is None:
                raise ValueError("this block attends to a photo; pass the keys and values of its tokens")
            h = self.norm_image(h + self.drop(self.attend_image(h, keys_values)))
        return self.norm_out(h + self.drop(self.down(F.gelu(self.up(h)))))


def sinusoids(
    t: Int[Tensor, "..."], width: int, precision: torch.dtype = torch.float64
) -> Float[Tensor, "... width"]:
    """Sinusoidal features of an integer time: sine on even channels, cosine on odd ones (Vaswani et al. 2017).

    Angles are taken in float64 unless told otherwise: float32 angles of t ~ 1000, LaDiC's, err by 6e-5.
    """
    return sinusoids_at(t, sinusoid_rates(width, precision, t.device))


def sinusoid_rates(
    width: int, precision: torch.dtype, device: torch.device | str = "cpu"
) -> Float[Tensor, " half"]:
    """Angles of one step of time, from 1 down to 1e-4."""
    return torch.exp(torch.arange(0, width, 2, dtype=precision, device=device) * (-math.log(1e4) / width))


def sinusoids_at(t: Int[Tensor, "..."], rates: Float[Tensor, " half"]) -> Float[Tensor, "... width"]:
    """Sinusoidal features of an integer time for given rates, in float32."""
    angle = t[..., None].to(rates.dtype) * rates
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).float()


class TimeEmbedding(nn.Module):
    """Fixed sinusoids of the noise level, followed by the given head (identity, LayerNorm or an MLP)."""

    def __init__(self, width: int, head: nn.Module, precision: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.width = width
        self.head = head
        self.precision = precision

    def forward(
        self, t: Int[Tensor, " batch"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch width"]:
        """The embedding of each caption's noise level, [batch, width]."""
        return self.head(sinusoids(t, self.width, self.precision).to(dtype))


class ImageAdapter(nn.Module):
    """Image tokens made ready for cross-attention: normalised, given positions, and related to each other.

    Runs once per photo, so its cost is shared by all steps and candidates.
    """

    def __init__(self, dim: int, tokens: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.position = nn.Parameter(torch.zeros(tokens, dim))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, 2 * dim, None, dropout, eps=1e-6) for _ in range(depth))

    def forward(self, image: ImageTokens) -> ImageTokens:
        """Image tokens as the denoiser sees them, of the same shape."""
        h = self.drop(self.norm(image) + self.position)
        for block in self.blocks:
            h = block(h)
        return h


@torch.no_grad()
def init_bert(module: nn.Module) -> None:
    """BERT's initial weights, for ``nn.Module.apply``: normal of deviation 0.02, biases zero."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
