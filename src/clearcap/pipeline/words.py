"""A caption word by word: where on the photo each one looks, and which words could stand in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.captioner.attention import mean_attention, on_grid, recorded_attention
from clearcap.captioner.network import CaptionRequest, Network
from clearcap.config import SamplingConfig, TextConfig, make, number
from clearcap.pipeline.infilling import Layout, Template, fixed_words, layouts_of
from clearcap.text.tokenizer import decode_caption, word_ids


@dataclass(frozen=True)
class Attention:
    """Where a caption's words look.

    Attributes:
        words: of the caption.
        maps: each word's weights over the photo, rows from the top; they sum to 1 (to less where the image encoder has
            a class token beside the grid, which is left out).
    """

    words: tuple[str, ...]
    maps: Float[Tensor, "words grid grid"]


@torch.inference_mode()
def attention_maps(
    captioner: Network,
    tokenizer: Any,
    image: Float[Tensor, "1 tokens image_dim"],
    caption: str,
    *,
    sampling: SamplingConfig | None = None,
) -> Attention:
    """Where each word of a caption looks: cross-attention at the last step, averaged over layers and heads.

    The caption's words stand in their places from the first step on, so that any caption can be asked about.

    Args:
        captioner: any captioner whose denoiser attends to image tokens.
        tokenizer: its tokenizer.
        image: the photo's image tokens.
        caption: of the photo, whoever wrote it.
        sampling: as for ``generate``.

    Raises:
        InputError: the caption is too long or has an unknown word, or the model has no cross-attention.
    """
    layout, words, places = read_layout(captioner, tokenizer, caption)
    with recorded_attention(captioner.denoiser) as layers:
        captioner.sample(
            image,
            [CaptionRequest(0)],
            sampler=captioner.sampler(sampling or captioner.defaults),
            fixed=fixed_words(captioner, [layout]),
        )
    positions = mean_attention(layers)
    return Attention(words, on_grid(torch.stack([positions[list(place)].mean(0) for place in places])))


@torch.inference_mode()
def alternatives(
    captioner: Network,
    tokenizer: Any,
    image: Float[Tensor, "1 tokens image_dim"],
    caption: str,
    *,
    count: int = 5,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
) -> list[tuple[tuple[str, float], ...]]:
    """What else could stand in place of each word of a caption, the others staying as they are.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        image: the photo's image tokens.
        caption: of the photo, whoever wrote it.
        count: words to name for each.
        seed: same seed, same words.
        sampling: as for ``generate``.

    Returns:
        For each word the likeliest whole words in its place with their probabilities, its own among them if it is.

    Raises:
        InputError: the caption is too long or has an unknown word.
    """
    count = number("count", count, int, 1, 1000)
    layout, _, places = read_layout(captioner, tokenizer, caption)
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    rows = [
        Layout((*layout.ids[: place[0]], mask, *layout.ids[place[-1] + 1 :]), ((place[0],),))
        for place in places
    ]
    x0 = captioner.sample(
        image,
        [CaptionRequest(0, i) for i in range(len(rows))],
        seed=seed,
        sampler=captioner.sampler(sampling or captioner.defaults),
        fixed=fixed_words(captioner, rows),
    )
    probabilities = captioner.logits(x0).softmax(-1)
    allowed = word_ids(tokenizer, captioner.text.special_ids, probabilities.shape[-1]).to(x0.device)
    found = []
    for row, ((position,),), of_words in zip(rows, (row.blanks for row in rows), probabilities, strict=True):
        p = of_words[position] * allowed
        p[[row.ids[position - 1], row.ids[position + 1]]] = 0  # no word twice in a row
        best, ids = p.topk(min(count, len(p)))
        found.append(tuple(zip(tokenizer.convert_ids_to_tokens(ids.tolist()), best.tolist(), strict=True)))
    return found


def read_layout(
    captioner: Network, tokenizer: Any, caption: str
) -> tuple[Layout, tuple[str, ...], Sequence[tuple[int, ...]]]:
    """A caption's token ids as a layout without blanks, its words, and the positions of each word's pieces.

    Raises:
        InputError: the caption is empty or too long, or has a word that the model has not.
    """
    keep_period = make(TextConfig, captioner.config.text, "text").keep_period
    (layout,) = layouts_of(Template((caption,)), tokenizer, captioner.length, keep_period=keep_period)
    decoded = decode_caption(tokenizer, layout.ids, captioner.text.special_ids)
    return layout, decoded.words, decoded.places
