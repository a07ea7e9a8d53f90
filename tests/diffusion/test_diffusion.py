"""Noising, parameterisations and losses against closed forms, diffusers and each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_captioner import CAPTIONS, tiny_captioner
from torch import Tensor
from torch.nn import functional as F

from clearcap.diffusion.ladic import Draws, caption_loss, draw, latent_distance, training_losses
from clearcap.diffusion.noise import Noise, make_noise
from clearcap.errors import InputError
from clearcap.text.tokenizer import encode_captions


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["x0", "epsilon", "v"]),
    st.sampled_from(["linear", "cosine", "sqrt"]),
    st.integers(1, 900),
    st.floats(0.5, 5.0),
)
def test_each_parameterisation_leads_back_to_x0_and_to_the_noise(
    predicts: str, schedule: str, t: int, factor: float
) -> None:
    made = make_noise(schedule, 1000, factor, predicts)
    noise = replace(made, alpha_bar=made.alpha_bar.double())
    x0, eps, times = normal(0, 2, 3, 4), normal(1, 2, 3, 4), torch.tensor([t, t])
    x_t = noise.add(x0, times, eps)
    torch.testing.assert_close(noise.x0(noise.target(x0, times, eps), x_t, times), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(noise.epsilon(x0, x_t, times), eps, rtol=1e-6, atol=1e-6)


def test_noising_and_velocity_are_diffusers_at_factor_one() -> None:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    noise = Noise(scheduler.alphas_cumprod, 1.0, "v")
    x0, eps, t = normal(0, 3, 5, 4).float(), normal(1, 3, 5, 4).float(), torch.tensor([0, 400, 999])
    torch.testing.assert_close(noise.add(x0, t, eps), scheduler.add_noise(x0, eps, t))
    torch.testing.assert_close(noise.target(x0, t, eps), scheduler.get_velocity(x0, eps, t))


def test_the_factor_scales_the_noise_and_leaves_the_signal() -> None:
    once, four = make_noise("cosine", 1000, 1.0), make_noise("cosine", 1000, 4.0)
    x0, eps, t = normal(0, 2, 3, 4), normal(1, 2, 3, 4), torch.tensor([100, 900])
    zero = torch.zeros_like(x0)
    torch.testing.assert_close(four.add(x0, t, zero), once.add(x0, t, zero))
    torch.testing.assert_close(four.add(zero, t, eps), 4 * once.add(zero, t, eps))


def test_level_zero_of_the_linear_schedule_is_clean() -> None:
    x0 = normal(0, 1, 3, 4).float()
    assert torch.equal(
        make_noise("linear", 1000, 4.0).add(x0, torch.tensor([0]), normal(1, 1, 3, 4).float()), x0
    )


def test_latent_distance_is_a_norm_not_its_square() -> None:
    error = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[6.0, 8.0], [5.0, 12.0]]])
    assert latent_distance(error, torch.zeros_like(error)) == (5 + 0 + 10 + 13) / 4


def test_caption_loss_is_the_mean_surprise_in_nats() -> None:
    logits, ids = normal(0, 2, 3, 7), torch.tensor([[0, 1, 2], [3, 6, 5]])
    surprise = [
        -math.log(math.exp(logits[b, i, ids[b, i]]) / sum(math.exp(v) for v in logits[b, i]))
        for b in range(2)
        for i in range(3)
    ]
    assert caption_loss(logits, ids).item() == pytest.approx(sum(surprise) / 6, rel=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_caption_loss_has_the_slope_of_torchs_cross_entropy_over_several_blocks(kind: torch.dtype) -> None:
    ours = normal(0, 5, 9, 7).to(kind).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    ids = torch.arange(45).reshape(5, 9) % 7
    loss, wanted = caption_loss(ours, ids), F.cross_entropy(theirs.flatten(0, 1).float(), ids.flatten())
    torch.testing.assert_close(loss, wanted)
    (0.3 * loss).backward()
    (0.3 * wanted).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("self_condition", [True, False])
@pytest.mark.parametrize("predicts", ["x0", "v"])
def test_training_losses_are_their_definition(self_condition: bool, predicts: str) -> None:
    captioner, tokenizer = tiny_captioner(length=14)
    space = captioner.text
    ids, mask = encode_captions(tokenizer, CAPTIONS[:3], 14)
    x0 = space.encode(ids, mask)
    noise = make_noise("cosine", 1000, 2.0, predicts)
    draws = Draws(
        torch.tensor([10, 500, 900]), normal(3, *x0.shape).float(), torch.ones(3).bool(), self_condition
    )
    calls: list[tuple[Tensor, Tensor]] = []
    weight = torch.tensor(0.5, requires_grad=True)

    def predict(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        calls.append((x_t, x_self))
        assert torch.equal(t, draws.t)
        return weight * x_t + 0.25 * x_self

    losses = training_losses(predict, space, noise, x0=x0, ids=ids, draws=draws)
    x_t = noise.add(x0, draws.t, draws.eps)
    first = noise.x0(0.5 * x_t, x_t, draws.t) if self_condition else torch.zeros_like(x_t)
    assert len(calls) == 1 + self_condition
    torch.testing.assert_close(calls[-1][1], first)
    assert not calls[-1][1].requires_grad  # no gradient through the first prediction
    output = 0.5 * x_t + 0.25 * first
    latent = (output - noise.target(x0, draws.t, draws.eps)).pow(2).sum(-1).sqrt().mean()
    logits = space.decode(noise.x0(output, x_t, draws.t))
    wanted = torch.where((ids == 0) | (ids == 2) | (ids == 3), space.filler_id, ids)
    caption = -logits.log_softmax(-1).gather(-1, wanted[..., None]).mean()
    torch.testing.assert_close(losses.latent, latent)
    torch.testing.assert_close(losses.caption, caption, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.total(0.2), latent + 0.2 * caption, rtol=1e-4, atol=1e-4)
    losses.total(0.2).backward()
    assert weight.grad is not None


def test_draws_have_the_asked_frequencies_and_follow_the_generator() -> None:
    def some(seed: int) -> Draws:
        return draw(
            photos=2000,
            copies=2,
            length=1,
            dim=1,
            steps=50,
            drop_image=0.3,
            self_condition=0.5,
            generator=torch.Generator().manual_seed(seed),
        )

    drawn = some(0)
    assert drawn.t.shape == (4000,)
    assert set(drawn.t.tolist()) == set(range(50))
    assert drawn.keep_image.float().mean().item() == pytest.approx(0.7, abs=0.04)
    assert 5 < sum(some(seed).self_condition for seed in range(20)) < 15
    assert torch.equal(drawn.eps, some(0).eps)
    assert not torch.equal(drawn.eps, some(1).eps)


def test_a_step_is_a_function_of_its_generator() -> None:
    def some() -> list[Draws]:
        generator = torch.Generator().manual_seed(5)
        sizes = {"photos": 50, "copies": 2, "length": 4, "dim": 3, "steps": 50}
        return [
            draw(
                **sizes,
                drop_image=0.5,
                self_condition=0.5,
                given=given,
                emphasis=emphasis,
                generator=generator,
            )
            for given, emphasis in ((0.5, 1.0), (0.0, 2.0)) * 10
        ]

    for once, again in zip(some(), some(), strict=True):
        for name, value in vars(once).items():
            other = getattr(again, name)
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_by_default_levels_are_uniform_and_nothing_is_told() -> None:
    drawn = draw(
        photos=5000,
        copies=4,
        length=1,
        dim=1,
        steps=1000,
        drop_image=0.0,
        self_condition=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert drawn.t.double().mean().item() == pytest.approx(499.5, abs=10)
    assert drawn.keep_image.all()
    assert drawn.self_condition
    assert drawn.framed is drawn.given is None


@pytest.mark.parametrize("emphasis", [2.0, 3.0])
def test_emphasis_moves_draws_to_the_noisy_levels(emphasis: float) -> None:
    drawn = draw(
        photos=20_000,
        copies=1,
        length=1,
        dim=1,
        steps=1000,
        drop_image=0.1,
        self_condition=0.5,
        emphasis=emphasis,
        generator=torch.Generator().manual_seed(0),
    )
    u = (drawn.t.double() + 0.5) / 1000
    assert 0 <= int(drawn.t.min()) <= int(drawn.t.max()) == 999
    for level in (0.3, 0.6, 0.9):  # P(t < level T) = level ** emphasis
        assert (u < level).double().mean().item() == pytest.approx(level**emphasis, abs=0.01)


def test_no_level_lies_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, generator: torch.ones(*size))  # what rounding may give
    sizes = {"photos": 2, "copies": 1, "length": 1, "dim": 1, "steps": 50}
    drawn = draw(
        **sizes, drop_image=0.1, self_condition=0.5, emphasis=3.0, generator=torch.Generator().manual_seed(0)
    )
    assert drawn.t.tolist() == [49, 49]


def test_lengths_and_words_are_told_as_often_as_asked() -> None:
    drawn = draw(
        photos=20_000,
        copies=1,
        length=8,
        dim=1,
        steps=1000,
        drop_image=0.1,
        self_condition=0.5,
        given=0.4,
        generator=torch.Generator().manual_seed(0),
    )
    assert drawn.framed is not None
    assert drawn.given is not None
    assert drawn.framed.double().mean().item() == pytest.approx(0.4, abs=0.02)
    assert drawn.given.double().mean().item() == pytest.approx(0.25, abs=0.01)  # half of them: U(0, 1)
    assert (drawn.given.sum(-1) == 0).double().mean().item() == pytest.approx(0.5 + 0.5 / 9, abs=0.02)


def test_tensors_are_made_where_their_inputs_are() -> None:
    """Another default device stands for a GPU: what does not say where it is made would meet the CPU's there."""
    captioner, tokenizer = tiny_captioner()
    ids, mask = encode_captions(tokenizer, CAPTIONS[:2], 10)
    x0, noise = captioner.text.encode(ids, mask), make_noise("cosine", 1000, 2.0, "v")
    draws = Draws(torch.tensor([10, 900]), normal(3, *x0.shape).float(), torch.ones(2).bool(), True)
    weight = torch.tensor(0.5, requires_grad=True)
    with torch.device("meta"):
        losses = training_losses(
            lambda x, x_self, t: weight * (x + x_self), captioner.text, noise, x0=x0, ids=ids, draws=draws
        )
        losses.total(0.2).backward()
    assert weight.grad.device.type == losses.caption.device.type == "cpu"


def test_told_words_come_back_and_betray_nothing_of_the_others() -> None:
    from clearcap.training.objectives import LadicObjective

    captioner, tokenizer = tiny_captioner()
    captioner.config.tokens["mask"] = tokenizer.mask_token_id
    objective = LadicObjective(captioner, captioner.noise(2.0))
    ids, mask = encode_captions(tokenizer, [CAPTIONS[0]], 10)
    other = ids.clone()
    other[0, 2] = ids[0, 3]
    framed, given = torch.tensor([True]), torch.zeros(1, 10, dtype=torch.bool)
    given[0, 1] = True
    x, t = torch.randn(1, 10, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([900])

    def predict(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return (x_t + x_self).mean(1, keepdim=True).expand_as(x_t)  # mixes all positions

    found, changed = (objective.told(predict, i, framed, given)(x, x, t) for i in (ids, other))
    assert torch.equal(found, changed)
    told = torch.where(given | (torch.roll(mask, -1, 1) == 0), 1, 0).bool()
    told[0, [0, -1]] = True
    masked = torch.where(told, ids, tokenizer.mask_token_id)
    torch.testing.assert_close(found[told], captioner.text.encode(masked, mask)[told])
    assert not torch.equal(found, predict(x, x, t))
    untold = objective.told(predict, ids, ~framed, given)(x, x, t)
    assert torch.equal(untold, predict(x, x, t))


def test_bad_noise() -> None:
    with pytest.raises(InputError, match="x0, epsilon or v"):
        make_noise("cosine", 10, 1.0, "score")
    with pytest.raises(InputError, match="must be positive"):
        make_noise("cosine", 10, 0.0)
