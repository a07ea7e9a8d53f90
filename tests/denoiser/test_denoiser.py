"""The denoiser: one photo's context serves all its captions, positions count, sizes must fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clearcap.config import DenoiserConfig
from clearcap.denoiser.cross_attention import CrossAttentionDenoiser, build_cross_attention
from clearcap.denoiser.interface import Denoiser
from clearcap.layers import join_contexts, select_photos

SIZES = {"dim": 8, "image_dim": 6, "image_tokens": 5, "length": 9}


def build(width: int, projected: bool, time_head: str) -> CrossAttentionDenoiser:
    sizes = DenoiserConfig(width=width, depth=2, heads=2, hidden=24, projected=projected, time_head=time_head)
    return build_cross_attention(sizes, **SIZES)


def make(time_head: str = "mlp", projected: bool = True) -> CrossAttentionDenoiser:
    torch.manual_seed(0)
    denoiser = build(12 if projected else 16, projected, time_head)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return denoiser.eval()


def inputs(batch: int, length: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x, x_self = torch.randn(2, batch, length, 8, generator=g)
    return x, x_self, torch.randint(1000, (batch,), generator=g)


@torch.no_grad()
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("time_head", ["none", "norm", "mlp"])
def test_copies_of_a_photo_are_captions_alone(projected: bool, time_head: str) -> None:
    denoiser = make(time_head, projected)
    image = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
    x, x_self, t = inputs(6)
    together = denoiser(x, x_self, t, denoiser.image_context(image))
    for i in range(6):
        row = slice(i, i + 1)
        alone = denoiser(x[row], x_self[row], t[row], denoiser.image_context(image[i // 3 : i // 3 + 1]))
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    each = torch.arange(2).repeat_interleave(3)
    repeated = denoiser(x, x_self, t, select_photos(denoiser.image_context(image), each))
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_joined_contexts_are_the_branches_one_after_the_other() -> None:
    denoiser = make()
    image = torch.randn(2, 5, 6)
    x, x_self, t = inputs(2)
    both = join_contexts(denoiser.image_context(image), denoiser.null_context(), photos=2)
    twice = denoiser(x.repeat(2, 1, 1), x_self.repeat(2, 1, 1), t.repeat(2), both)
    photo = denoiser(x, x_self, t, denoiser.image_context(image))
    null = denoiser(x, x_self, t, denoiser.image_context(denoiser.null_image.expand(2, -1, -1)))
    torch.testing.assert_close(twice, torch.cat((photo, null)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("part", ["x", "x_self", "t", "image", "place"])
def test_every_input_matters(part: str) -> None:
    denoiser = make()
    image = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(2))
    x, x_self, t = inputs(1)
    before = denoiser(x, x_self, t, denoiser.image_context(image))
    after = {
        "x": lambda: denoiser(x + 1, x_self, t, denoiser.image_context(image)),
        "x_self": lambda: denoiser(x, x_self + 1, t, denoiser.image_context(image)),
        "t": lambda: denoiser(x, x_self, (t + 300) % 1000, denoiser.image_context(image)),
        "image": lambda: denoiser(x, x_self, t, denoiser.image_context(image + 1 * torch.randn(1, 5, 6))),
        "place": lambda: denoiser(x.flip(1), x_self.flip(1), t, denoiser.image_context(image)).flip(1),
    }[part]()
    assert (after - before).abs().max() > 1e-3


@torch.no_grad()
def test_without_projections_the_output_is_the_first_half_of_the_normed_channels() -> None:
    denoiser = make("none", projected=False)
    image = torch.randn(1, 5, 6)
    x, x_self, t = inputs(1)
    seen = []
    handle = denoiser.blocks[-1].register_forward_hook(lambda m, a, o: seen.append(o))
    y = denoiser(x, x_self, t, denoiser.image_context(image))
    handle.remove()
    assert torch.equal(y, seen[0][..., :8])


@torch.no_grad()
def test_a_shorter_caption_needs_no_other_network() -> None:
    denoiser = make()
    x, x_self, t = inputs(2, length=4)
    assert denoiser(x, x_self, t, denoiser.image_context(torch.randn(2, 5, 6))).shape == (2, 4, 8)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple of heads=2"):
        build(13, projected=True, time_head="mlp")
    with pytest.raises(
        ValueError, match=r"width=12: .* twice the latent's 8 channels; set denoiser\.width=16"
    ):
        build(12, projected=False, time_head="mlp")
    with pytest.raises(ValueError, match="positions=8 is too few for the 9 positions"):
        build_cross_attention(DenoiserConfig(width=12, heads=2, positions=8), **SIZES)


def test_the_denoiser_is_one() -> None:
    assert isinstance(make(), Denoiser)
