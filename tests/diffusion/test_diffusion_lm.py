"""CLIP-Diffusion-LM's objective written out, level by level and caption by caption."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clearcap.config import TextConfig
from clearcap.diffusion.diffusion_lm import (
    LevelDraws,
    draw_levels,
    dynamic_weight,
    frobenius,
    l1,
    level_losses,
    rounding_loss,
)
from clearcap.diffusion.noise import make_noise
from clearcap.text.embedding import EmbeddingSpace

LEVELS = [3, 40, 90]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def surprise(logits: Tensor, ids: Tensor) -> float:
    """-log p of one caption, in nats."""
    return sum(
        -math.log(math.exp(row[i]) / sum(math.exp(v) for v in row))
        for row, i in zip(logits.tolist(), ids.tolist(), strict=True)
    )


def test_distances_sum_positions_and_average_captions() -> None:
    error = torch.tensor([[[3.0, -4.0], [0.0, 0.0]], [[6.0, 8.0], [5.0, -12.0]]])
    zero = torch.zeros_like(error)
    assert l1(error, zero) == l1(zero, error) == (3 + 4 + 6 + 8 + 5 + 12) / 4
    assert frobenius(error, zero).item() == pytest.approx((5 + math.sqrt(100 + 169)) / 2)


def test_rounding_loss_sums_a_captions_positions() -> None:
    logits, ids = normal(0, 2, 3, 7), torch.tensor([[0, 1, 2], [3, 6, 5]])
    expected = sum(surprise(logits[b], ids[b]) for b in range(2)) / 2
    assert rounding_loss(logits, ids).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lag", [0, 50])
@pytest.mark.parametrize("distance", [l1, frobenius])
def test_level_losses_are_their_definition(lag: int, distance) -> None:
    space = EmbeddingSpace.build(
        TextConfig(kind="embedding"), {"vocab_size": 11, "dim": 6}, {"pad": 0, "cls": 2, "sep": 3}
    )
    noise = make_noise("cosine-float32", 100)
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    x0 = space.encode(ids, (ids > 0).long())
    draws = LevelDraws(
        t=torch.tensor(LEVELS),
        eps=normal(1, *x0.shape),
        eps_first=normal(2, *x0.shape),
        eps_target=normal(3, *x0.shape),
        guided=torch.tensor([True, False] * 3),
        keep_image=torch.ones(2, dtype=torch.bool),
    )
    calls: list[tuple[Tensor, Tensor | None]] = []

    def predict(x: Tensor, guided: Tensor | None) -> Tensor:
        calls.append((x, guided))
        return 0.7 * x + 0.1

    found = level_losses(predict, space, noise, x0=x0, ids=ids, draws=draws, distance=distance, lag=lag)

    def noised(b: int, t: int, eps: Tensor) -> Tensor:
        share = noise.alpha_bar[t]
        return share.sqrt() * x0[b] + (1 - share).sqrt() * eps[b]

    rows = [(b, t) for b in range(2) for t in LEVELS]  # caption-major
    seen = torch.stack([noised(b, t, draws.eps) for b, t in rows])
    first = torch.stack([noised(b, 1, draws.eps_first) for b in range(2)])
    torch.testing.assert_close(calls[0][0], seen)
    torch.testing.assert_close(calls[1][0], first)
    assert calls[0][1] is draws.guided
    assert calls[1][1] is None
    targets = torch.stack([noised(b, max(t - lag, 0), draws.eps_target) if lag else x0[b] for b, t in rows])
    torch.testing.assert_close(found.noisy, distance(0.7 * seen + 0.1, targets))
    torch.testing.assert_close(found.first, distance(0.7 * first + 0.1, x0))
    torch.testing.assert_close(found.latent, found.noisy + found.first)
    said = [
        surprise(logits, ids[b]) for logits, (b, _) in zip(space.decode(0.7 * seen + 0.1), rows, strict=True)
    ]
    at_first = [surprise(space.decode(0.7 * first + 0.1)[b], ids[b]) for b in range(2)]
    assert found.rounding.item() == pytest.approx(sum(said) / 6 + sum(at_first) / 2, rel=1e-4)


def test_draws_are_apart_and_follow_the_generator() -> None:
    def some(seed: int) -> LevelDraws:
        return draw_levels(
            photos=1000,
            copies=2,
            length=3,
            dim=4,
            steps=50,
            levels=2000,
            drop_image=0.2,
            generator=torch.Generator().manual_seed(seed),
        )

    drawn = some(0)
    assert (int(drawn.t.min()), int(drawn.t.max())) == (0, 49)
    assert drawn.t.double().mean().item() == pytest.approx(24.5, abs=1)
    assert drawn.keep_image.double().mean().item() == pytest.approx(0.8, abs=0.04)
    assert drawn.guided is None
    noises = torch.stack((drawn.eps, drawn.eps_first, drawn.eps_target)).flatten(1)
    assert drawn.eps.shape == (2000, 3, 4)
    torch.testing.assert_close(torch.corrcoef(noises), torch.eye(3), rtol=0, atol=0.03)
    for name in ("t", "eps", "eps_first", "eps_target", "keep_image"):
        assert torch.equal(getattr(some(0), name), getattr(drawn, name))
        assert not torch.equal(getattr(some(1), name), getattr(drawn, name))


def test_the_dynamic_weight_keeps_the_losses_in_proportion() -> None:
    latent, rounding = torch.tensor(3.0, requires_grad=True), torch.tensor(12.0, requires_grad=True)
    weight = dynamic_weight(latent, rounding, 0.5)
    assert (weight * rounding).item() == pytest.approx(0.5 * 3.0)
    assert not weight.requires_grad
