"""The fused denoiser against torch's own encoder layers, caption by caption."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import join_contexts
from clearcap.arrays.layers import Block, hide_photos
from clearcap.config import DenoiserConfig
from clearcap.denoiser.fused import FusedDenoiser, build_add, build_concat
from clearcap.denoiser.interface import Denoiser
from clearcap.errors import InputError

WIDTH, LENGTH, FEATURES = 12, 5, 7
BUILDERS = {"concat": build_concat, "add": build_add}


def make(kind: str, **changed: int) -> FusedDenoiser:
    """A small denoiser whose weights are large enough for everything to matter."""
    torch.manual_seed(0)
    sizes = DenoiserConfig(kind=kind, width=WIDTH, depth=2, heads=3, hidden=20, **changed)
    made = BUILDERS[kind](sizes, dim=WIDTH, length=LENGTH, image_dim=FEATURES, image_tokens=1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return made.eval()


def torchs(block: Block) -> nn.TransformerEncoderLayer:
    """torch's own post-norm layer with the weights of ours."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, 3, 20, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    own = block.attend_self
    layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias = own.qkv.weight, own.qkv.bias
    layer.self_attn.out_proj, layer.linear1, layer.linear2 = own.out, block.up, block.down
    layer.norm1, layer.norm2 = block.norm_self, block.norm_out
    return layer.eval()


def reference(denoiser: FusedDenoiser, x: Tensor, vectors: list[Tensor], words: Tensor) -> Tensor:
    """One caption [length, width] about the vectors that show; ``words`` are the positions attended to."""
    kind = "concat" if len(list(denoiser.fuse.parameters())) else "add"
    if kind == "concat":
        segment = denoiser.fuse.segment.weight
        h = torch.stack([*(row + segment[0] for row in x), *(vector + segment[1] for vector in vectors)])
        hidden = torch.cat((~words, torch.zeros(len(vectors), dtype=torch.bool)))
    else:
        h, hidden = torch.stack([sum(vectors, row) for row in x]), ~words
    h = F.layer_norm(
        h + denoiser.position[: len(h)], (WIDTH,), denoiser.norm.weight, denoiser.norm.bias, 1e-12
    )
    for block in denoiser.blocks:
        h = torchs(block)(h[None], src_key_padding_mask=hidden[None])[0]
    dense, _, norm = denoiser.head
    return norm(F.gelu(dense(h)))[: len(x)]


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents of two captions a photo, the photos' vectors and captions' vectors."""
    g = torch.Generator().manual_seed(1)
    image, text = torch.randn(2, count, FEATURES, generator=g)
    return torch.randn(2 * count, LENGTH, WIDTH, generator=g), image, text


@torch.no_grad()
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_photo_is_fused_as_written_out(kind: str) -> None:
    denoiser = make(kind)
    x, image, _ = inputs(3)
    words = torch.ones(6, LENGTH, dtype=torch.bool)
    words[1, 3:] = words[4, 1:] = False
    found = denoiser(x, None, None, denoiser.image_context(image[:, None]), words=words)
    for i in range(6):
        expected = reference(denoiser, x[i], [denoiser.image(image[i // 2])], words[i])
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)
    everywhere = denoiser(x, None, None, denoiser.image_context(image[:, None]))
    torch.testing.assert_close(everywhere[0], found[0])
    assert not torch.allclose(everywhere[1, :3], found[1, :3], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_captions_vector_shows_where_it_guides(kind: str) -> None:
    denoiser = make(kind)
    x, image, text = inputs(3)
    both, words = torch.stack((image, text), 1), torch.ones(LENGTH, dtype=torch.bool)
    guided = torch.tensor([True, False, True])
    some = denoiser(x, None, None, denoiser.image_context(both, guided))
    every = denoiser(x, None, None, denoiser.image_context(both))
    for i in range(6):
        seen, told = denoiser.image(image[i // 2]), denoiser.text(text[i // 2])
        # a hidden vector of "concat" keeps its place, which nothing attends to: the others stand as they did
        expected = reference(denoiser, x[i], [seen, told] if guided[i // 2] else [seen], words)
        torch.testing.assert_close(some[i], expected, rtol=1e-4, atol=1e-5)
        with_text = reference(denoiser, x[i], [seen, told], words)
        torch.testing.assert_close(every[i], with_text, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(some[2], every[2], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", BUILDERS)
def test_without_a_photo_its_vector_does_not_show(kind: str) -> None:
    denoiser = make(kind)
    x, image, _ = inputs(3)
    words = torch.ones(LENGTH, dtype=torch.bool)
    context, null = denoiser.image_context(image[:, None]), denoiser.null_context()
    blind = [reference(denoiser, x[i], [], words) for i in range(6)]
    hidden = hide_photos(context, null, torch.tensor([True, False, True]))
    found = denoiser(x, None, None, hidden)
    for i in (2, 3):
        torch.testing.assert_close(found[i], blind[i], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[[0, 1, 4, 5]], denoiser(x, None, None, context)[[0, 1, 4, 5]])
    twice = denoiser(torch.cat((x, x)), None, None, join_contexts(context, null, photos=3))
    torch.testing.assert_close(twice[:6], denoiser(x, None, None, context), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twice[6:], torch.stack(blind), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_neither_time_nor_the_last_prediction_matters() -> None:
    denoiser = make("concat")
    x, image, _ = inputs(2)
    context = denoiser.image_context(image[:, None])
    told = denoiser(x, torch.randn_like(x), torch.randint(1000, (4,)), context)
    assert torch.equal(told, denoiser(x, None, None, context))
    assert isinstance(denoiser, Denoiser)


@torch.no_grad()
@pytest.mark.parametrize("kind", BUILDERS)
def test_tensors_are_made_where_their_inputs_are_and_of_their_kind(kind: str) -> None:
    """Another default device stands for a GPU: what does not say where it is made would meet the CPU's there."""
    denoiser = make(kind)
    x, image, text = inputs(3)
    both, guided = torch.stack((image, text), 1), torch.tensor([True, False, True])
    with torch.device("meta"):
        found = denoiser(x, None, None, denoiser.image_context(both, guided))
        assert all(part.device.type == "cpu" for part in denoiser.null_context()[0])
    assert torch.equal(found, denoiser(x, None, None, denoiser.image_context(both, guided)))
    seen: list[torch.dtype] = []
    denoiser.norm.register_forward_pre_hook(lambda module, h: seen.append(h[0].dtype))
    context = denoiser.image_context(both, guided)
    for part in (denoiser.fuse, denoiser.norm, denoiser.blocks, denoiser.head):
        part.to(torch.bfloat16)
    half = denoiser(x.bfloat16(), None, None, context)
    assert seen == [torch.bfloat16] == [half.dtype]


def test_new_weights_are_berts() -> None:
    sizes = DenoiserConfig(kind="concat", width=96, depth=2, heads=3, hidden=200)
    made = build_concat(sizes, dim=96, length=60, image_dim=50, image_tokens=1)
    for weight in (made.blocks[1].up.weight, made.head[0].weight, made.position):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert made.fuse.segment.weight.std().item() == pytest.approx(1.0, rel=0.2)
    assert not made.blocks[0].down.bias.any()
    assert made.position.shape == (62, 96)  # the captions' positions and two vectors
    assert {m.eps for m in made.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}


@pytest.mark.parametrize("kind", BUILDERS)
def test_sizes_that_do_not_fit(kind: str) -> None:
    sizes = DenoiserConfig(kind=kind, width=WIDTH, heads=3)
    for dim, tokens in ((16, 1), (WIDTH, 2)):
        with pytest.raises(
            InputError, match=f"of kind {kind} needs denoiser.width={dim} .*and vision.tokens=1"
        ):
            BUILDERS[kind](sizes, dim=dim, length=LENGTH, image_dim=FEATURES, image_tokens=tokens)
    with pytest.raises(InputError, match="positions=6 is too few for the 7 positions"):
        make(kind, positions=6)
    assert len(make(kind, positions=7).position) == 7
