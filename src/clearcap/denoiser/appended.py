"""The denoiser that reads a photo as one more position behind the words: the base of LaDiC's ablation."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from clearcap.arrays import Context, ImageTokens, Latents
from clearcap.arrays.layers import Block, Hidden, TimeEmbedding, init_bert
from clearcap.config import DenoiserConfig
from clearcap.denoiser.cross_attention import position_rows


class AppendedDenoiser(nn.Module):
    """Noisy latent + previous prediction + time, and one vector of the photo behind the words (LaDiC, section 4.7).

    The vector is the mean of the image tokens, where the paper takes the [CLS] token's.
    """

    def __init__(
        self,
        *,
        dim: int,
        image_dim: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        rows: int,
        dropout: float,
    ) -> None:
        """Args:
        dim: channels of a latent.
        image_dim: channels of an image token.
        width, depth, heads, hidden: of the layers.
        rows: of the position table, the photo's position included.
        dropout: while training.
        """
        super().__init__()
        self.embed, self.image = nn.Linear(2 * dim, width), nn.Linear(image_dim, width)
        self.time = TimeEmbedding(
            width, nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        )
        self.position = nn.Parameter(torch.empty(rows, width))
        self.norm, self.drop = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, None, dropout) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        self.null_image = nn.Parameter(torch.zeros(1, 1, width))
        self.apply(init_bert)
        nn.init.normal_(self.position, std=0.02)

    def image_context(self, image: ImageTokens) -> Context:
        """Each photo's vector [photos, 1, width]."""
        return [(self.image(image.mean(1, keepdim=True)),)]

    def null_context(self) -> Context:
        """The vector of no photo."""
        return [(self.null_image,)]

    def forward(self, x: Latents, x_self: Latents, t: Int[Tensor, " batch"], context: Context) -> Hidden:
        """``batch`` is photos * copies, photo-major."""
        ((photo,),) = context
        h = self.embed(torch.cat((x, x_self), -1)) + self.time(t, self.position.dtype)[:, None]
        h = torch.cat((h, photo.repeat_interleave(len(x) // len(photo), 0).to(h.dtype)), 1)
        h = self.drop(self.norm(h + self.position[: h.shape[1]].to(h.dtype)))
        for block in self.blocks:
            h = block(h)
        return self.head(h[:, : x.shape[1]])


def build_appended(
    sizes: DenoiserConfig, *, dim: int, length: int, image_dim: int, image_tokens: int
) -> AppendedDenoiser:
    """An untrained denoiser; arguments as for ``clearcap.denoiser.interface.BuildDenoiser``."""
    return AppendedDenoiser(
        dim=dim,
        image_dim=image_dim,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        hidden=sizes.hidden,
        rows=position_rows(sizes, length + 1),
        dropout=sizes.dropout,
    )
