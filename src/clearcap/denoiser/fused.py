"""The denoiser that fuses a photo's one vector with the caption's positions (CLIP-Diffusion-LM)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearcap.arrays import Context
from clearcap.arrays.layers import Block, Hidden
from clearcap.config import DenoiserConfig, require
from clearcap.denoiser.cross_attention import position_rows

FEATURES = 2  # a photo's vector and a caption's


class ConcatFusion(nn.Module):
    """Vectors as further positions behind the words, told apart by a segment embedding (paper, section 5.5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.segment = nn.Embedding(2, width)
        nn.init.normal_(self.segment.weight)

    def forward(
        self,
        x: Hidden,
        features: Float[Tensor, "batch vectors width"],
        visible: Bool[Tensor, "batch vectors"],
        words: Bool[Tensor, "batch length"],
    ) -> tuple[Tensor, Tensor]:
        """All positions, and which of them are attended to."""
        h = torch.cat((x + self.segment.weight[0], features.to(x.dtype) + self.segment.weight[1]), dim=1)
        return h, torch.cat((words, visible), dim=1)


class AddFusion(nn.Module):
    """Vectors added to every position."""

    def forward(
        self,
        x: Hidden,
        features: Float[Tensor, "batch vectors width"],
        visible: Bool[Tensor, "batch vectors"],
        words: Bool[Tensor, "batch length"],
    ) -> tuple[Tensor, Tensor]:
        """All positions, and which of them are attended to."""
        for vector, shows in zip(features.unbind(1), visible.unbind(1), strict=True):
            x = x + torch.where(shows[:, None], vector, 0.0)[:, None].to(x.dtype)
        return x, words


class FusedDenoiser(nn.Module):
    """Noisy latent and a photo's vector -> prediction; told neither the time nor its previous prediction.

    DistilBERT's layers, randomly initialised, ending in the transform and LayerNorm of its masked-language head
    (CLIP-Diffusion-LM, section 4).
    """

    def __init__(
        self,
        *,
        fuse: nn.Module,
        blocks: list[Block],
        feature_dim: int,
        width: int,
        length: int,
        dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        """Args:
        fuse: ``ConcatFusion`` or ``AddFusion``.
        blocks: transformer layers without cross-attention.
        feature_dim: channels of the vectors.
        width: channels of the latent, which are the layers'.
        length: rows of the position table, the fused positions included.
        dropout: while training.
        """
        super().__init__()
        self.image = nn.Linear(feature_dim, width)
        self.text = nn.Linear(feature_dim, width)
        self.fuse = fuse
        self.position = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=eps))
        nn.init.normal_(self.position, std=0.02)
        for linear in [*self.blocks.modules(), self.head[0]]:
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)

    def image_context(
        self,
        image: Float[Tensor, "photos vectors feature_dim"],
        guided: Bool[Tensor, " photos"] | None = None,
    ) -> Context:
        """The projected vectors [photos, vectors, width] and which of them show, 1 or 0 [photos, vectors].

        Args:
            image: the photo's vector and, where a second one is given, a caption's.
            guided: whether the caption's vector shows; default wherever there is one.
        """
        features = [self.image(image[:, :1])]
        shown = [torch.ones(image.shape[0], 1, device=image.device)]
        if image.shape[1] == FEATURES:
            features.append(self.text(image[:, 1:]))
            shown.append(torch.ones_like(shown[0]) if guided is None else guided[:, None].to(shown[0].dtype))
        return [(torch.cat(features, 1), torch.cat(shown, 1))]

    def null_context(self) -> Context:
        """A photo whose vector does not show."""
        zeros = self.position.new_zeros(1, 1, self.image.in_features)
        return [(self.image(zeros), torch.zeros(1, 1, device=zeros.device))]

    def forward(
        self,
        x: Hidden,
        x_self: Hidden | None,
        t: Int[Tensor, " batch"] | None,
        context: Context,
        words: Bool[Tensor, "batch length"] | None = None,
    ) -> Hidden:
        """``batch`` is photos * copies, photo-major; ``x_self`` and ``t`` are not looked at.

        Arguments as for ``whole``.
        """
        return self.whole(x, x_self, t, context, words)[:, : x.shape[1]]

    def whole(
        self,
        x: Hidden,
        x_self: Hidden | None,
        t: Int[Tensor, " batch"] | None,
        context: Context,
        words: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch positions width"]:
        """The prediction at every position, those behind the words included.

        Args:
            x: noisy latent.
            x_self, t: taken so that any sampler can call this denoiser.
            context: what ``image_context`` gave.
            words: positions that are attended to (the caption's true length, known in training); default all.
        """
        ((features, shown),) = context
        copies = x.shape[0] // features.shape[0]
        words = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if words is None else words
        visible = shown.repeat_interleave(copies, 0) > 0.5
        h, attended = self.fuse(x, features.repeat_interleave(copies, 0), visible, words)
        h = self.drop(self.norm(h + self.position[: h.shape[1]].to(h.dtype)))
        for block in self.blocks:
            h = block(h, mask=attended[:, None, None])
        return self.head(h)


def build_concat(
    sizes: DenoiserConfig, *, dim: int, length: int, image_dim: int, image_tokens: int
) -> FusedDenoiser:
    """An untrained denoiser that concatenates; arguments as for ``clearcap.denoiser.interface.BuildDenoiser``."""
    return _build(ConcatFusion(sizes.width), sizes, dim, length, image_dim, image_tokens)


def build_add(
    sizes: DenoiserConfig, *, dim: int, length: int, image_dim: int, image_tokens: int
) -> FusedDenoiser:
    """An untrained denoiser that adds; arguments as for ``clearcap.denoiser.interface.BuildDenoiser``."""
    return _build(AddFusion(), sizes, dim, length, image_dim, image_tokens)


def _build(
    fuse: nn.Module, sizes: DenoiserConfig, dim: int, length: int, image_dim: int, image_tokens: int
) -> FusedDenoiser:
    require(
        sizes.width == dim and image_tokens == 1,
        f"a denoiser of kind {sizes.kind} needs denoiser.width={dim} (the latent's) and vision.tokens=1 (one "
        f"vector a photo), not {sizes.width} and {image_tokens}; set vision.mode='global' and those sizes",
    )
    blocks = [Block(sizes.width, sizes.heads, sizes.hidden, None, sizes.dropout) for _ in range(sizes.depth)]
    return FusedDenoiser(
        fuse=fuse,
        blocks=blocks,
        feature_dim=image_dim,
        width=sizes.width,
        length=position_rows(sizes, length + FEATURES),
        dropout=sizes.dropout,
    )
