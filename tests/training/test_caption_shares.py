"""Which of a photo's captions a step draws: as often as their shares say, the agreeing ones oftener where asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clearcap.config import TrainConfig
from clearcap.data.features import Features
from clearcap.metrics.cider import DocumentFrequency, pairwise
from clearcap.training.examples import Examples, caption_shares, take_batch

GROUPS = [
    [
        "a dog runs on the grass",
        "a brown dog runs on grass",
        "the dog is outside",
        "a dog runs",
        "what a day",
    ],
    ["two men play chess", "men at a table"],
    ["a bird"],
]


def test_shares_are_even_by_default() -> None:
    shares = caption_shares(GROUPS, 0.0)
    expected = [[0.2, 0.4, 0.6, 0.8, 1.0], [0.5, 1.0, np.inf, np.inf, np.inf], [1.0] + [np.inf] * 4]
    np.testing.assert_allclose(shares.numpy(), expected, rtol=1e-6)


def test_agreeing_captions_are_drawn_oftener() -> None:
    """Log odds of two captions: agreement times the difference of their mean CIDEr-D with the rest, standardised."""
    running = caption_shares(GROUPS, 0.7)[0].double().numpy()
    shares = np.diff(running, prepend=0.0)
    table = pairwise(GROUPS[0], DocumentFrequency.of(GROUPS))
    agreement = np.array([np.delete(row, i).mean() for i, row in enumerate(table)])
    odds = 0.7 * (agreement - agreement.mean()) / agreement.std()
    np.testing.assert_allclose(np.log(shares) - np.log(shares[0]), odds - odds[0], atol=1e-5)
    assert shares.argmin() == 4
    assert running[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_captions_are_drawn_by_their_shares(weight: float) -> None:
    counts = [len(group) for group in GROUPS]
    first = torch.tensor([0, *counts]).cumsum(0)
    shares = caption_shares(GROUPS, weight)
    examples = Examples(
        x0=torch.zeros(sum(counts), 4, 2, dtype=torch.float16),
        ids=torch.arange(sum(counts))[:, None].expand(-1, 4),
        first=first,
        rows=torch.arange(3),
        mirrored=torch.zeros(3, dtype=torch.bool),
        text_first=sum(counts),
        shares=shares,
    )
    features = Features(np.zeros((1, 3, 2, 2), np.float16), ("a", "b", "c"), "test")
    config, steps = TrainConfig(photos=3, copies=4), 400
    drawn = torch.zeros(sum(counts))
    for step in range(steps):
        ids = take_batch(examples, features, config, step, 0, 1).ids[:, 0]
        drawn += torch.bincount(ids, minlength=sum(counts))
        by_photo = torch.bucketize(ids.view(3, 4), first[1:], right=True)
        assert (by_photo == by_photo[:, :1]).all()  # copies are photo-major
    for photo, count in enumerate(counts):
        expected = np.diff(shares[photo, :count].numpy(), prepend=0.0)
        found = drawn[first[photo] : first[photo + 1]] / (4 * steps)
        np.testing.assert_allclose(found.numpy(), expected, atol=0.03)
