"""Caption strings as the two published code bases make them from predicted tokens."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


def drop_repeated_columns(ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch shorter"]:
    """Both code bases' removal of repeated tokens: a column goes only where every row repeats itself there.

    So a caption depends on what else is in its batch; on a batch of one it does what was meant.
    """
    return torch.unique_consecutive(ids, dim=-1)


def ladic_captions(tokenizer: Any, ids: Int[Tensor, "batch length"]) -> list[str]:
    """LaDiC's post-processing of a whole batch, special tokens kept (``inference`` of its code).

    Args:
        tokenizer: BERT's.
        ids: most probable tokens.
    """
    decoded = [
        tokenizer.decode(row, clean_up_tokenization_spaces=True)
        for row in drop_repeated_columns(ids).tolist()
    ]
    said_once = [" ".join(word for word, _ in groupby(text.split())) for text in decoded]
    return [text.strip(".").strip() + "." for text in said_once]
