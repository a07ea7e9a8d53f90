"""The denoiser against torch's own decoder layers; one photo's context serves all its captions, sizes must fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import join_contexts, select_photos
from clearcap.arrays.layers import Block, TimeEmbedding, sinusoids
from clearcap.config import DenoiserConfig
from clearcap.denoiser.cross_attention import CrossAttentionDenoiser, build_cross_attention
from clearcap.denoiser.interface import Denoiser

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


def torchs(block: Block, width: int) -> nn.TransformerDecoderLayer:
    """torch's own post-norm layer with the weights of ours, whose image tokens have the layer's width."""
    layer = nn.TransformerDecoderLayer(
        width, 2, 24, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    own, photo = block.attend_self, block.attend_image
    layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias = own.qkv.weight, own.qkv.bias
    layer.self_attn.out_proj, layer.multihead_attn.out_proj = own.out, photo.out
    layer.multihead_attn.in_proj_weight = nn.Parameter(torch.cat((photo.q.weight, photo.kv.weight)))
    layer.multihead_attn.in_proj_bias = nn.Parameter(torch.cat((photo.q.bias, photo.kv.bias)))
    layer.linear1, layer.linear2 = block.up, block.down
    layer.norm1, layer.norm2, layer.norm3 = block.norm_self, block.norm_image, block.norm_out
    return layer.eval()


@torch.no_grad()
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("time_head", ["none", "norm", "mlp"])
def test_the_network_is_torchs_decoder_layers(projected: bool, time_head: str) -> None:
    width = 12 if projected else 16
    torch.manual_seed(0)
    sizes = DenoiserConfig(width=width, depth=2, heads=2, hidden=24, projected=projected, time_head=time_head)
    denoiser = build_cross_attention(sizes, **SIZES | {"image_dim": width}).eval()
    for weight in denoiser.parameters():
        weight.add_(0.3 * torch.randn(weight.shape))
    image = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(2))
    x, x_self, t = inputs(3, length=7)
    h = torch.cat((x, x_self), -1)
    tokens, time = image, sinusoids(t, width, torch.float64 if projected else torch.float32)
    if projected:
        h, tokens = h @ denoiser.embed.weight.T + denoiser.embed.bias, denoiser.adapter(image)
    if time_head == "norm":
        time = F.layer_norm(time, (width,), denoiser.time.head.weight, denoiser.time.head.bias, 1e-12)
    if time_head == "mlp":
        first, _, second = denoiser.time.head
        time = second(F.silu(first(time)))
    h = denoiser.norm(h + time[:, None] + denoiser.position[:7])
    for block in denoiser.blocks:
        h = torchs(block, width)(h, tokens)
    expected = denoiser.head(h) if projected else h[..., :8]
    found = denoiser(x, x_self, t, denoiser.image_context(image))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_new_weights_are_berts_and_the_null_image_is_black() -> None:
    sizes = DenoiserConfig(width=64, depth=2, heads=2, hidden=100)
    made = build_cross_attention(sizes, dim=20, length=60, image_dim=50, image_tokens=7)
    for weight in (made.position, made.embed.weight, made.head.weight, made.blocks[1].attend_image.kv.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.07)
    assert made.position.shape == (60, 64)
    assert made.null_image.shape == (7, 50)
    assert not made.null_image.any()
    assert not made.head.bias.any()
    assert made.adapter.position.shape == (7, 50)


def test_settings_reach_the_layers() -> None:
    def made(**changed: float | str | bool) -> CrossAttentionDenoiser:
        return build_cross_attention(DenoiserConfig(width=16, heads=2, **changed), **SIZES)

    def dropouts(part: nn.Module) -> set[float]:
        return {m.p for m in part.modules() if isinstance(m, nn.Dropout)}

    wet = made(depth=3, dropout=0.25, image_dropout=0.125, adapter_depth=2)
    assert dropouts(wet.blocks) == {wet.drop.p} == {wet.blocks[0].attend_self.dropout} == {0.25}
    assert dropouts(wet.adapter) == {0.125}
    assert (len(wet.blocks), len(wet.adapter.blocks)) == (3, 2)
    assert {block.attend_self.heads for block in (*wet.blocks, *wet.adapter.blocks)} == {2}
    assert [block.up.out_features for block in made(hidden=40, depth=1).blocks] == [40]
    assert dropouts(made()) == {0.0, 0.1}
    assert made(null="learned").null_image.requires_grad
    assert not made(null="mean-colour").null_image.requires_grad
    for head in ("norm", "mlp"):
        plain = made(projected=False, time_head=head)
        assert {m.eps for m in plain.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}
        assert plain.time.precision == torch.float32
    assert made().time.precision == torch.float64
    assert made(positions=11).position.shape == (11, 16)
    assert made(positions=9).position.shape == made(positions=0).position.shape == (9, 16)


def test_a_denoiser_is_dry_and_learns_its_null_image_unless_told() -> None:
    made = CrossAttentionDenoiser(
        adapter=nn.Identity(),
        embed=nn.Identity(),
        time=TimeEmbedding(8, nn.Identity()),
        blocks=[],
        head=nn.Identity(),
        null_image=torch.ones(2, 3),
        width=8,
        length=5,
    )
    assert (made.drop.p, made.norm.eps) == (0.0, 1e-12)
    assert made.null_image.requires_grad
    assert torch.equal(made.null_image, torch.ones(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("projected", [True, False])
def test_tensors_are_made_where_their_inputs_are(projected: bool) -> None:
    """Another default device stands for a GPU: what does not say where it is made would meet the CPU's there."""
    denoiser = make("mlp", projected)
    x, x_self, t = inputs(2)
    image = torch.randn(2, 5, 6)
    with torch.device("meta"):
        found = denoiser(x, x_self, t, denoiser.image_context(image))
        assert all(part.device.type == "cpu" for layer in denoiser.null_context() for part in layer)
    assert torch.equal(found, denoiser(x, x_self, t, denoiser.image_context(image)))


@torch.no_grad()
def test_under_autocast_sums_stay_in_half_precision() -> None:
    denoiser, seen = make(), []
    denoiser.norm.register_forward_pre_hook(lambda module, h: seen.append(h[0].dtype))
    x, x_self, t = inputs(2)
    with torch.autocast("cpu", torch.bfloat16):
        denoiser(x, x_self, t, denoiser.image_context(torch.randn(2, 5, 6)))
    assert seen == [torch.bfloat16]


@torch.no_grad()
def test_a_context_has_as_many_layers_as_the_denoiser() -> None:
    denoiser = make()
    context = denoiser.image_context(torch.randn(2, 5, 6))
    for wrong in (context[:1], [*context, context[0]]):
        with pytest.raises(ValueError, match="zip"):
            denoiser(*inputs(2), wrong)


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
    for rows in (1, 8):
        with pytest.raises(ValueError, match=f"positions={rows} is too few for the 9 positions"):
            build_cross_attention(DenoiserConfig(width=12, heads=2, positions=rows), **SIZES)


def test_the_denoiser_is_one() -> None:
    assert isinstance(make(), Denoiser)
