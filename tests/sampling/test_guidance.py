"""Guidance in one batch against two separate calls of the network."""

from __future__ import annotations

import pytest
import torch
from tiny_captioner import photos, tiny_captioner
from torch import Tensor

from clearcap.arrays import select_photos
from clearcap.config import SamplingConfig
from clearcap.diffusion.noise import make_noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import (
    FixedLatents,
    between,
    called_back,
    conditioned,
    guide,
    guided,
    self_conditioned,
    without_self_conditioning,
)


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 10, 24, generator=g),
        torch.randn(batch, 10, 24, generator=g),
        torch.full((batch,), 500),
    )


@torch.inference_mode()
@pytest.mark.parametrize("scale", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("predicts", ["x0", "epsilon", "v"])
def test_one_batch_is_two_calls(scale: float, predicts: str) -> None:
    captioner, _ = tiny_captioner()
    noise = type(captioner.noise(2.0))(captioner.noise(2.0).alpha_bar, 2.0, predicts)
    image = photos(3)
    x, x_self, t = inputs(6)  # two captions per photo
    context = captioner.image_context(image)
    ours = guided(captioner.denoiser, noise, context, scale)(x, x_self, t)
    null = captioner.denoiser.image_context(captioner.denoiser.null_image.expand(3, -1, -1))
    with_photo = noise.x0(captioner.denoiser(x, x_self, t, context), x, t)
    without = noise.x0(captioner.denoiser(x, x_self, t, null), x, t)
    torch.testing.assert_close(ours, (1 + scale) * with_photo - scale * without, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_of_a_context_see_their_own_photo() -> None:
    captioner, _ = tiny_captioner()
    noise, context = captioner.noise(1.0), captioner.image_context(photos(3))
    x, x_self, t = inputs(6)
    everyone = guided(captioner.denoiser, noise, context, 1.0)(x, x_self, t)
    rows = torch.tensor([5, 1, 2])
    some = guided(captioner.denoiser, noise, select_photos(context, rows // 2), 1.0)(
        x[rows], x_self[rows], t[rows]
    )
    torch.testing.assert_close(some, everyone[rows], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_guidance_on_a_share_of_the_levels() -> None:
    captioner, _ = tiny_captioner()
    noise, context = captioner.noise(1.0), captioner.image_context(photos(2))
    x, x_self, _ = inputs(2)
    how = SamplingConfig(guidance=1.0, guidance_low=0.2, guidance_high=0.6, noise_factor=1.0)
    part = captioner.sampler(how).denoise(captioner.denoiser, context)
    both = guided(captioner.denoiser, noise, context, 1.0)
    one = conditioned(captioner.denoiser, noise, context)
    for level, expected in ((999, one), (600, one), (599, both), (400, both), (200, both), (199, one)):
        t = torch.full((2,), level)
        assert torch.equal(part(x, x_self, t), expected(x, x_self, t)), level


def test_between_includes_its_ends() -> None:
    denoise = between(lambda x, s, t: x + 1, lambda x, s, t: x, 3, 5)
    levels = [int(denoise(torch.zeros(1), torch.zeros(1), torch.tensor([t]))) for t in range(7)]
    assert levels == [0, 0, 0, 1, 1, 1, 0]


def test_guide_moves_away_from_the_unconditional() -> None:
    assert guide(torch.tensor(3.0), torch.tensor(1.0), 2.0) == 3 * 3 - 2 * 1


def test_latents_stay_in_float32_whatever_the_network_computes_in() -> None:
    seen: list[torch.dtype] = []

    class Network:
        def image_context(self, image: Tensor) -> list:
            return context

        def null_context(self) -> list:
            return context

        def __call__(self, x: Tensor, x_self: Tensor, t: Tensor, context: list) -> Tensor:
            seen.extend((x.dtype, x_self.dtype))
            return x + x_self

    context = [(torch.zeros(2, 1, dtype=torch.bfloat16),)]
    x, x_self, t = inputs(2)
    x0 = conditioned(Network(), make_noise("cosine", 1000, 1.0, "v"), context)(x, x_self, t)
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert x0.dtype == torch.float32


def test_fixed_latents_of_some_rows() -> None:
    fixed = FixedLatents(torch.arange(6.0).view(3, 2, 1), torch.tensor([[True, False]] * 3))
    rows = torch.tensor([2, 0])
    x = torch.full((2, 2, 1), 9.0)
    x0 = fixed.wrap(lambda x, x_self, t: x_self, rows)(x, -x, rows)
    assert x0[..., 0].tolist() == [[4, -9], [0, -9]]


def test_a_callback_returns_a_dictionary_with_latents_that_fit() -> None:
    x, x_self, t = inputs(2)

    def returning(answer: object) -> Tensor:
        return called_back(lambda x, x_self, t: x, lambda *step: answer)(x, x_self, t)

    assert torch.equal(returning({}), x)
    assert torch.equal(returning({"latents": x_self, "noisy": None}), x_self)
    with pytest.raises(InputError, match=r"^callback_on_step_end returned no dictionary; return {} to"):
        returning(None)
    with pytest.raises(InputError, match=r"shape \(2, 3\), not \(2, 10, 24\)"):
        returning({"latents": torch.zeros(2, 3)})


def test_self_conditioning_shows_the_last_prediction_and_can_be_left_out() -> None:
    shown: list[tuple[Tensor, list[int]]] = []

    def denoise(x: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        shown.append((x_self, t.tolist()))
        return x + 1

    x = torch.zeros(2, 3, 4)
    for step in (self_conditioned(denoise), self_conditioned(without_self_conditioning(denoise))):
        for t in (9, 5):
            assert torch.equal(step(x, t), x + 1)
    assert [float(x_self.mean()) for x_self, _ in shown] == [0, 1, 0, 0]
    assert [times for _, times in shown] == [[9, 9], [5, 5]] * 2
    assert all(x_self.shape == x.shape for x_self, _ in shown)
