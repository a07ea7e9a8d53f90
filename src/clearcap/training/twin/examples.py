"""Captions as tokens, grouped by photo, for what learns them word by word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clearcap.config import TextConfig
from clearcap.errors import InputError
from clearcap.training.examples import sided

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Captions -> ids and mask, both [captions, length]."""


@dataclass(frozen=True)
class TokenisedCaptions:
    """Captions of photos.

    Attributes:
        ids: tokens of all captions, padded.
        first: index of each photo's first caption, then the number of captions.
        rows: each photo's row in the cache it is read from.
        mirrored: whether a photo may be mirrored.
    """

    ids: Int[Tensor, "captions length"]
    first: Int[Tensor, " photos_and_end"]
    rows: Int[Tensor, " photos"]
    mirrored: Bool[Tensor, " photos"]

    def sample(
        self, photos: Int[Tensor, " photos"], copies: int, generator: torch.Generator
    ) -> Int[Tensor, "batch length"]:
        """As even a choice of each photo's captions as ``copies`` of them can come to, photo-major."""
        first, count = self.first[photos], self.first[photos + 1] - self.first[photos]
        shift = torch.rand(len(photos), 1, generator=generator)
        nth = ((shift + torch.arange(copies) / copies) % 1 * count[:, None]).long()
        return self.ids[(first[:, None] + nth.minimum(count[:, None] - 1)).flatten()]


def tokenised(
    captions: Mapping[str, Sequence[str]],
    names: Sequence[str],
    tokenize: Tokenize,
    sides: str = TextConfig.sides,
) -> TokenisedCaptions:
    """Captions of those photos of a cache that have some.

    Args:
        captions: of each captioned photo, by id.
        names: ids of the cache's photos, in order.
        tokenize: captions that fill its whole length are left out, for they may have been cut.
        sides: words for a side, in the captions' language.

    Raises:
        InputError: no caption is left.
    """
    ids, counts, rows, one_way = [], [0], [], []
    names_a_side = sided(sides).search
    for row, name in enumerate(names):
        if name not in captions:
            continue
        tokens, mask = tokenize(list(captions[name]))
        whole = mask.sum(1) < tokens.shape[1]
        if whole.any():
            ids.append(tokens[whole])
            counts.append(int(whole.sum()))
            rows.append(row)
            one_way.append(any(map(names_a_side, captions[name])))
    if not ids:
        raise InputError(
            "every caption fills its whole length, so none is sure to be whole; raise text.length"
        )
    return TokenisedCaptions(
        torch.cat(ids), torch.tensor(counts).cumsum(0), torch.tensor(rows), ~torch.tensor(one_way)
    )
