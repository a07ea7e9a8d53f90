"""The trained transformer that predicts a clean caption latent from a noisy one and a photo."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.layers import Block, ImageAdapter, KeysValues, TimeEmbedding, init_bert


class Denoiser(nn.Module):
    """Noisy latent + previous prediction + time, attending to image tokens -> prediction (LaDiC, section 3.3).

    Args:
        embed: channel-joined ``[x_t, x_self]`` (2 * dim channels) -> width. Identity where width is 2 * dim.
        look: image tokens -> image tokens, run once per photo. Identity in LaDiC.
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
        look: nn.Module,
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
        self.look = look
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

    def see(self, image: Float[Tensor, "photos tokens image_dim"]) -> list[KeysValues]:
        """Each layer's keys and values of the photos: computed once, used at every step and by every copy."""
        image = self.look(image)
        return [block.attend_image.keys_values(image) for block in self.blocks]

    def see_nothing(self) -> list[KeysValues]:
        """The keys and values of the null image, for one photo (see ``join_views`` to batch them)."""
        return self.see(self.null_image[None])

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        x_self: Float[Tensor, "batch length dim"],
        t: Int[Tensor, " batch"],
        view: list[KeysValues],
    ) -> Float[Tensor, "batch length dim"]:
        """``batch`` is photos * copies, photo-major; ``view`` holds one entry a layer for the photos."""
        h = self.embed(torch.cat((x, x_self), dim=-1))
        h = (
            h
            + self.time(t, self.position.dtype)[:, None].to(h.dtype)
            + self.position[: h.shape[1]].to(h.dtype)
        )
        h = self.drop(self.norm(h))
        for block, keys_values in zip(self.blocks, view, strict=True):
            h = block(h, keys_values)
        return self.head(h)


class FirstChannels(nn.Module):
    """Keeps the first ``dim`` channels: LaDiC's output has no projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, h: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length dim"]:
        return h[..., : self.dim]


def join_views(*views: list[KeysValues], photos: int) -> list[KeysValues]:
    """Stack views along the batch, each expanded to ``photos`` rows: the branches of guidance run as one batch."""
    return [
        (
            torch.cat([k.expand(photos, -1, -1, -1) for k, _ in layer]),
            torch.cat([v.expand(photos, -1, -1, -1) for _, v in layer]),
        )
        for layer in zip(*views, strict=True)
    ]


def repeat_view(view: list[KeysValues], copies: int) -> list[KeysValues]:
    """Photo-major copies of a view, for callers that need one row of keys and values per caption."""
    return [(k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0)) for k, v in view]


def build_denoiser(
    *,
    dim: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    image_dim: int,
    image_tokens: int,
    length: int,
    projected: bool,
    time_head: str,
    adapter_depth: int = 0,
    image_dropout: float = 0.0,
    dropout: float = 0.0,
    learned_null: bool = True,
) -> Denoiser:
    """A denoiser from plain sizes.

    Args:
        dim: latent channels; ``width`` must be 2 * dim unless ``projected``.
        projected: learned input and output projections and an image adapter (compact) instead of LaDiC's
            channel joining.
        adapter_depth: layers of the image adapter, whose dropout is ``image_dropout``.
        time_head: "none" (plain sinusoids), "norm" (the class with time LayerNorm) or "mlp".
    """
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}")
    if not projected and width != 2 * dim:
        raise ValueError(f"without projections width must be 2 * dim = {2 * dim}, not {width}")
    heads_of_time: dict[str, nn.Module] = {
        "none": nn.Identity(),
        "norm": nn.LayerNorm(width, eps=1e-12),
        "mlp": nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)),
    }
    adapter = (
        ImageAdapter(image_dim, image_tokens, adapter_depth, heads, image_dropout)
        if projected
        else nn.Identity()
    )
    return Denoiser(
        look=adapter,
        embed=nn.Linear(2 * dim, width) if projected else nn.Identity(),
        time=TimeEmbedding(width, heads_of_time[time_head], torch.float64 if projected else torch.float32),
        blocks=[Block(width, heads, hidden, image_dim, dropout) for _ in range(depth)],
        head=nn.Linear(width, dim) if projected else FirstChannels(dim),
        null_image=torch.zeros(image_tokens, image_dim),
        width=width,
        length=length,
        dropout=dropout,
        learned_null=learned_null,
    )
