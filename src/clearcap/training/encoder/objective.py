"""What a distilled encoder is asked for: losses against the teacher and captions, and their measures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.data.reading import member, read_table


class AuxiliaryHeads(nn.Module):
    """Linear guesses of the teacher's class and of caption words from the mean token; dropped at export."""

    def __init__(self, dim: int, classes: int, words: int) -> None:
        """Either head may have no output at all."""
        super().__init__()
        self.classes, self.words = nn.Linear(dim, max(classes, 1)), nn.Linear(dim, max(words, 1))
        nn.init.constant_(self.words.bias, -3.0)  # most words are absent from most captions

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch words"]]:
        """Logits of classes and of words."""
        pooled = tokens.mean(1)
        return self.classes(pooled), self.words(pooled)


def feature_loss(
    tokens: Float[Tensor, "batch tokens dim"], targets: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, ""]:
    """Squared error, and one minus cosine similarity, of the tokens and of each photo's mean token."""
    each = F.cosine_similarity(tokens, targets, dim=-1).mean()
    pooled = F.cosine_similarity(tokens.mean(1), targets.mean(1), dim=-1).mean()
    return F.mse_loss(tokens, targets) + (1 - each) + (1 - pooled)


def class_loss(
    logits: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """KL divergence from the teacher's softened class distribution (Hinton et al. 2015)."""
    return F.kl_div(
        (logits / temperature).log_softmax(-1),
        (teacher / temperature).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )


def word_loss(
    logits: Float[Tensor, "batch words"],
    targets: Float[Tensor, "batch words"],
    known: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy against the share of captions with each word, summed over words.

    Photos without captions (`known` is false) count as no error.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return (entropy * known).sum() / known.sum().clamp(min=1)


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Captions by photo name, from a CSV file with the columns `image,caption`.

    Raises:
        InputError: the file is absent, is no CSV or has other columns.
    """
    captions: dict[str, list[str]] = {}
    for where, row in read_table(Path(path), "pass a CSV file with image,caption"):
        captions.setdefault(member(row, "image", str, where), []).append(member(row, "caption", str, where))
    return captions


def word_shares(
    captions: dict[str, list[str]], names: Iterable[str], vocabulary: list[str]
) -> Float[np.ndarray, "photos words"]:
    """Per photo, the share of its captions that hold each word; rows of NaN for photos without captions."""
    column = {word: i for i, word in enumerate(vocabulary)}
    names = list(names)
    shares = np.full((len(names), len(vocabulary)), np.nan, np.float32)
    for row, name in zip(shares, names, strict=True):
        if name in captions:
            row[:] = 0
            for caption in captions[name]:
                row[[column[w] for w in _words(caption) if w in column]] += 1 / len(captions[name])
    return shares.clip(max=1)


def frequent_words(captions: Iterable[str], count: int) -> list[str]:
    """The `count` words that occur in most captions, commonest first."""
    counter = Counter(word for caption in captions for word in sorted(_words(caption)))
    return [word for word, _ in counter.most_common(count)]


def _words(caption: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", caption.lower()))


def agreement(
    tokens: Float[Tensor, "photos tokens dim"], targets: Float[Tensor, "photos tokens dim"]
) -> dict[str, float]:
    """How well tokens match their targets: mean cosine, and R2 (share of variance explained)."""
    residual = (tokens - targets).square().sum()
    variance = (targets - targets.mean((0, 1))).square().sum()
    return {
        "cosine": F.cosine_similarity(tokens, targets, dim=-1).mean().item(),
        "r2": (1 - residual / variance).item(),
    }


def mean_average_precision(
    scores: Float[np.ndarray, "photos words"], present: Bool[np.ndarray, "photos words"]
) -> float:
    """Average precision of ranking the photos by each word's score, averaged over words that occur."""
    found = np.take_along_axis(present, np.argsort(-scores, axis=0, kind="stable"), axis=0)
    precision = found.cumsum(0) / np.arange(1, len(found) + 1)[:, None]
    counts = found.sum(0)
    return float(((precision * found).sum(0)[counts > 0] / counts[counts > 0]).mean())


def augment(
    images: Float[Tensor, "batch 3 height width"],
    targets: Float[Tensor, "batch tokens dim"],
    grid: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch tokens dim"]]:
    """Changes under which the target is known: mirror (its grid mirrors too), colour, a patch cut out.

    Args:
        images: photos, 0..1; overwritten.
        targets: their token grids.
        grid: side of the grid.
        generator: source of randomness.
    """
    batch, _, height, width = images.shape
    mirrored = torch.rand(batch, generator=generator) < 0.5
    images[mirrored] = images[mirrored].flip(-1)
    targets = targets.clone()
    rows = targets[mirrored]
    targets[mirrored] = rows.view(len(rows), grid, grid, targets.shape[-1]).flip(2).reshape(rows.shape)
    gain = 1 + 0.15 * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
    shift = 0.05 * (2 * torch.rand(batch, 3, 1, 1, generator=generator) - 1)
    images.mul_(gain).add_(shift).clamp_(0, 1)
    side = height // 4
    tops = torch.randint(height - side, (batch,), generator=generator).tolist()
    lefts = torch.randint(width - side, (batch,), generator=generator).tolist()
    cut = torch.rand(batch, generator=generator).lt(0.25).tolist()
    for image, top, left, is_cut in zip(images, tops, lefts, cut, strict=True):
        if is_cut:
            image[:, top : top + side, left : left + side] = 0.45  # about the mean of photos
    return images, targets
