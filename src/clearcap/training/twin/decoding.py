"""Greedy decoding and beam search of the twin, over cached keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearcap.arrays import ImageTokens
from clearcap.arrays.layers import KeysValues
from clearcap.training.twin.network import Twin


class Written(NamedTuple):
    """Captions written for photos.

    Attributes:
        ids: tokens after the first one, padded behind the end token.
        score: sum of log-probabilities, end token included, divided by (tokens ** penalty).
    """

    ids: Int[Tensor, "photos length"]
    score: Float[Tensor, " photos"]


@torch.inference_mode()
def greedy(twin: Twin, image: ImageTokens, *, first: int, end: int, pad: int) -> Int[Tensor, "photos length"]:
    """The most probable next token each time, until the end token or the twin's length."""
    return _word_by_word(twin, image, len(image), lambda logits: logits.argmax(-1), first, end, pad)


@torch.no_grad()
def draw(
    twin: Twin,
    image: ImageTokens,
    copies: int,
    *,
    first: int,
    end: int,
    pad: int,
    banned: Bool[Tensor, " vocab"],
    generator: torch.Generator,
) -> Int[Tensor, "batch length"]:
    """Captions drawn token by token from what the twin predicts.

    Args:
        twin: in evaluation mode.
        image: tokens of photos.
        copies: captions of each photo; the batch is photo-major.
        first, end, pad: special tokens.
        banned: tokens that are never drawn.
        generator: of the draws.
    """

    def drawn(logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        spread = logits.float().masked_fill(banned, -torch.inf).softmax(-1)
        return torch.multinomial(spread, 1, generator=generator)[:, 0]

    return _word_by_word(twin, image, copies * len(image), drawn, first, end, pad)


def _word_by_word(
    twin: Twin,
    image: ImageTokens,
    batch: int,
    choose: Callable[[Float[Tensor, "batch vocab"]], Int[Tensor, " batch"]],
    first: int,
    end: int,
    pad: int,
) -> Int[Tensor, "batch length"]:
    """Tokens chosen from each next logits, until the end token or the twin's length."""
    context = twin.image_context(image)
    ids = torch.full((batch, 1), first, device=image.device)
    written, past = [], None
    over = torch.zeros(batch, dtype=torch.bool, device=image.device)
    for _ in range(twin.length - 1):
        h, past = twin.read(ids, context, past)
        chosen = choose(twin.logits(h[:, -1])).masked_fill(over, pad)
        written.append(chosen)
        over |= chosen == end
        ids = chosen[:, None]
        if over.all():
            break
    return torch.stack(written, 1)


@torch.inference_mode()
def beam_search(
    twin: Twin,
    image: ImageTokens,
    *,
    first: int,
    end: int,
    pad: int,
    beams: int = 3,
    penalty: float = 1.0,
) -> Written:
    """The best caption that a search over ``beams`` beginnings finds, as transformers' ``generate`` does it.

    Each step keeps the ``beams`` best beginnings that are not over; a caption that ends among the ``beams`` best
    continuations is finished, with its log-probability divided by (its tokens ** penalty).

    Args:
        twin: in evaluation mode.
        image: tokens of photos.
        first, end, pad: special tokens.
        beams: beginnings kept.
        penalty: above 0 favours longer captions.
    """
    photos, device = len(image), image.device
    context = twin.image_context(image)  # cross-attention shares a photo's keys and values among its beams
    row = torch.arange(photos, device=device)[:, None] * beams
    score = torch.full((photos, beams), -torch.inf, device=device)
    score[:, 0] = 0.0  # all beginnings are alike at first
    alive = torch.full((photos, beams, 1), first, device=device)
    length = twin.length - 1
    done = torch.full((photos, beams, length), pad, device=device)
    done_score = torch.full((photos, beams), -torch.inf, device=device)
    past: list[KeysValues] | None = None
    for place in range(length):
        h, past = twin.read(alive[:, :, -1:].flatten(0, 1), context, past)
        logits = twin.logits(h[:, -1]).float().log_softmax(-1).unflatten(0, (photos, beams))
        every = (score[:, :, None] + logits).flatten(1)
        best, which = every.topk(2 * beams)  # so that at least ``beams`` do not end
        beam, token = which // logits.shape[-1], which % logits.shape[-1]
        ends = token == end
        last = place == length - 1
        candidate = alive.gather(1, beam[:, :, None].expand(-1, -1, alive.shape[-1]))
        candidate = torch.cat((candidate, token[:, :, None]), -1)
        finished = (ends | last) & (torch.arange(2 * beams, device=device) < beams)
        value = torch.where(finished, best / (place + 1) ** penalty, -torch.inf)
        padded = torch.full((photos, 2 * beams, length), pad, device=device)
        padded[:, :, : place + 1] = candidate[:, :, 1:]
        done_score, kept = torch.cat((done_score, value), 1).topk(beams)
        done = torch.cat((done, padded), 1).gather(1, kept[:, :, None].expand(-1, -1, length))
        score, order = best.masked_fill(ends, -torch.inf).topk(beams)
        beam = beam.gather(1, order)
        alive = candidate.gather(1, order[:, :, None].expand(-1, -1, candidate.shape[-1]))
        # What is alive can only lose; transformers' early_stopping=False compares it at its present length.
        hopeless = score[:, 0] / (place + 1) ** penalty <= done_score[:, -1]
        if hopeless.all():
            break
        places = (row + beam).flatten()
        past = [(k[places], v[places]) for k, v in past]
    return Written(done[:, 0], done_score[:, 0])
