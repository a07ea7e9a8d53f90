"""The denoiser that attends to a photo's tokens (LaDiC)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.arrays import Context, ImageTokens, Latents
from clearcap.arrays.layers import Block, Hidden, ImageAdapter, TimeEmbedding, init_bert
from clearcap.config import DenoiserConfig, require


class CrossAttentionDenoiser(nn.Module):
    """Noisy latent + previous prediction + time, attending to image tokens -> prediction (LaDiC, section 3.3).

    Args:
        embed: channel-joined ``[x_t, x_self]`` (2 * dim channels) -> width. Identity where width is 2 * dim.
        adapter: image tokens -> image tokens, run once per photo. Identity in LaDiC.
        time: time embedding, added at every position.
        blocks: transformer layers with cross-attention to the photo.
        head: width -> dim.
        null_image: what stands for the photo in the unconditional branch, [tokens, image dim].
        length: rows of the position table, which bound a caption's tokens.
        learned_null: whether ``null_image`` is trained (False: tokens of a photo of the mean colour, as LaDiC's).
    """

    blocks: Any  # of Block; nn.Module's own typing would make its parts "Tensor or Module"

    def __init__(
        self,
        *,
        adapter: nn.Module,
        embed: nn.Module,
        time: TimeEmbedding,
        blocks: list[Block],
        head: nn.Module,
        null_image: Float[Tensor, "tokens image_dim"],
        width: int,
        length: int,
        dropout: float = 0.0,
        eps: float = 1e-12,
        learned_null: bool = True,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.embed = embed
        self.time = time
        self.position = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.null_image = nn.Parameter(null_image.clone(), requires_grad=learned_null)
        self.apply(init_bert)
        nn.init.normal_(self.position, std=0.02)

    def image_context(self, image: ImageTokens) -> Context:
        """Each layer's keys and values of the photos: computed once, used at every step and by every copy."""
        image = self.adapter(image)
        return [block.attend_image.keys_values(image) for block in self.blocks]

    def null_context(self) -> Context:
        """The keys and values of the null image, for one photo."""
        return self.image_context(self.null_image[None])

    def forward(self, x: Latents, x_self: Latents, t: Int[Tensor, " batch"], context: Context) -> Latents:
        """``batch`` is photos * copies, photo-major; ``context`` holds keys and values of each layer."""
        h = self.embed(torch.cat((x, x_self), dim=-1))
        h = (
            h
            + self.time(t, self.position.dtype)[:, None].to(h.dtype)
            + self.position[: h.shape[1]].to(h.dtype)
        )
        h = self.drop(self.norm(h))
        for block, (keys, values) in zip(self.blocks, context, strict=True):
            h = block(h, (keys, values))
        return self.head(h)


class FirstChannels(nn.Module):
    """Keeps the first ``dim`` channels: LaDiC's output has no projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, h: Hidden) -> Latents:
        """The first ``dim`` channels."""
        return h[..., : self.dim]


def build_cross_attention(
    sizes: DenoiserConfig, *, dim: int, length: int, image_dim: int, image_tokens: int
) -> CrossAttentionDenoiser:
    """An untrained denoiser; arguments as for ``clearcap.denoiser.interface.BuildDenoiser``.

    With ``sizes.projected`` it has learned projections in and out and an image adapter (the compact preset); without,
    LaDiC's channel joining, for which the width is twice the latent's.

    Raises:
        InputError: sizes that do not fit each other.
    """
    width, heads = sizes.width, sizes.heads
    require(
        sizes.projected or width == 2 * dim,
        f"denoiser.width={width}: without projections it must be twice the latent's {dim} channels; "
        f"set denoiser.width={2 * dim} or denoiser.projected=true",
    )
    heads_of_time: dict[str, nn.Module] = {
        "none": nn.Identity(),
        "norm": nn.LayerNorm(width, eps=1e-12),
        "mlp": nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)),
    }
    adapter = (
        ImageAdapter(image_dim, image_tokens, sizes.adapter_depth, heads, sizes.image_dropout)
        if sizes.projected
        else nn.Identity()
    )
    precision = torch.float64 if sizes.projected else torch.float32
    return CrossAttentionDenoiser(
        adapter=adapter,
        embed=nn.Linear(2 * dim, width) if sizes.projected else nn.Identity(),
        time=TimeEmbedding(width, heads_of_time[sizes.time_head], precision),
        blocks=[Block(width, heads, sizes.hidden, image_dim, sizes.dropout) for _ in range(sizes.depth)],
        head=nn.Linear(width, dim) if sizes.projected else FirstChannels(dim),
        null_image=torch.zeros(image_tokens, image_dim),
        width=width,
        length=position_rows(sizes, length),
        dropout=sizes.dropout,
        learned_null=sizes.null == "learned",
    )


def position_rows(sizes: DenoiserConfig, needed: int) -> int:
    """Rows of the position table.

    Raises:
        InputError: the settings ask for fewer than are needed.
    """
    require(
        not 0 < sizes.positions < needed,
        f"denoiser.positions={sizes.positions} is too few for the {needed} positions of a caption; "
        f"set denoiser.positions to {needed} or more, or to 0",
    )
    return sizes.positions or needed
