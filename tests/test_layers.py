"""Attention and blocks against torch's and transformers' own layers with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from clearcap.arrays.layers import (
    Block,
    CrossAttention,
    ImageAdapter,
    SelfAttention,
    TimeEmbedding,
    attend,
    sinusoids,
)

WIDTH, HEADS, IMAGE = 24, 3, 10


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def torch_attention(mine: SelfAttention | CrossAttention) -> nn.MultiheadAttention:
    """torch's own attention with the weights of ours."""
    if isinstance(mine, SelfAttention):
        theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        theirs.in_proj_weight = mine.qkv.weight
        theirs.in_proj_bias = mine.qkv.bias
    else:
        theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=IMAGE, vdim=IMAGE)
        theirs.q_proj_weight = mine.q.weight
        theirs.k_proj_weight, theirs.v_proj_weight = (nn.Parameter(w) for w in mine.kv.weight.chunk(2))
        theirs.in_proj_bias = nn.Parameter(torch.cat((mine.q.bias, mine.kv.bias)))
    theirs.out_proj.weight, theirs.out_proj.bias = mine.out.weight, mine.out.bias
    return theirs.eval()


def test_self_attention_is_torchs(generator: torch.Generator) -> None:
    mine = SelfAttention(WIDTH, HEADS)
    nn.init.normal_(mine.qkv.bias)
    h = torch.randn(4, 7, WIDTH, generator=generator)
    same(mine(h), torch_attention(mine)(h, h, h)[0])


def test_cached_cross_attention_is_torchs_for_every_copy(generator: torch.Generator) -> None:
    mine = CrossAttention(WIDTH, HEADS, IMAGE)
    nn.init.normal_(mine.kv.bias)
    image = torch.randn(2, 5, IMAGE, generator=generator)
    h = torch.randn(6, 7, WIDTH, generator=generator)  # three captions of each photo
    cached = mine.keys_values(image)
    repeated = image.repeat_interleave(3, 0)
    same(mine(h, cached), torch_attention(mine)(h, repeated, repeated)[0])
    same(mine(h * 2, cached), torch_attention(mine)(h * 2, repeated, repeated)[0])  # the cache is not used up


def test_a_block_without_a_photo_is_transformers_bert_layer(generator: torch.Generator) -> None:
    mine = Block(WIDTH, HEADS, 40, None).eval()
    config = BertConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=40)
    config._attn_implementation = "eager"
    bert = BertLayer(config).eval()
    q, k, v = mine.attend_self.qkv.weight.chunk(3)
    qb, kb, vb = mine.attend_self.qkv.bias.chunk(3)
    names = {
        "attention.self.query": (q, qb),
        "attention.self.key": (k, kb),
        "attention.self.value": (v, vb),
        "attention.output.dense": mine.attend_self.out,
        "attention.output.LayerNorm": mine.norm_self,
        "intermediate.dense": mine.up,
        "output.dense": mine.down,
        "output.LayerNorm": mine.norm_out,
    }
    state = {}
    for name, part in names.items():
        weight, bias = part if isinstance(part, tuple) else (part.weight, part.bias)
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    bert.load_state_dict(state)
    h = torch.randn(3, 7, WIDTH, generator=generator)
    theirs = bert(h)
    same(mine(h), theirs[0] if isinstance(theirs, tuple) else theirs)


def test_a_block_adds_the_photo_between_attention_and_feed_forward(generator: torch.Generator) -> None:
    mine = Block(WIDTH, HEADS, 40, IMAGE).eval()
    assert mine.attend_image is not None
    assert mine.norm_image is not None
    h, image = torch.randn(2, 7, WIDTH, generator=generator), torch.randn(2, 5, IMAGE, generator=generator)
    a = mine.norm_self(h + torch_attention(mine.attend_self)(h, h, h)[0])
    a = mine.norm_image(a + torch_attention(mine.attend_image)(a, image, image)[0])
    expected = mine.norm_out(a + mine.down(nn.GELU()(mine.up(a))))
    same(mine(h, mine.attend_image.keys_values(image)), expected)
    with pytest.raises(ValueError, match="keys and values"):
        mine(h)


@pytest.mark.parametrize("masked", [False, True])
def test_the_bf16_training_path_on_a_cpu_is_the_fused_kernel(
    generator: torch.Generator, masked: bool
) -> None:
    q, k, v = (torch.randn(2, 3, 6, 8, generator=generator).bfloat16() for _ in range(3))
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None, None, None] if masked else None
    fused = attend(q, k, v, mask, 0.0)
    plain = attend(q.clone().requires_grad_(), k, v, mask, 0.0)
    assert plain.requires_grad
    torch.testing.assert_close(plain.detach(), fused, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("width", [8, 96])
def test_sinusoids_are_the_table_of_the_transformer_paper(width: int) -> None:
    t = np.arange(1000)[:, None]
    rate = 1 / 10000 ** (np.arange(0, width, 2) / width)
    expected = np.zeros((1000, width))
    expected[:, 0::2], expected[:, 1::2] = np.sin(t * rate), np.cos(t * rate)
    ours = sinusoids(torch.arange(1000), width)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_time_embedding_puts_its_head_on_the_sinusoids() -> None:
    head = nn.Linear(8, 8)
    t = torch.tensor([0, 10, 999])
    same(TimeEmbedding(8, head)(t), head(sinusoids(t, 8)))


def test_the_image_adapter_treats_photos_apart(generator: torch.Generator) -> None:
    adapter = ImageAdapter(12, 5, 2, 3, dropout=0.5).eval()
    nn.init.normal_(adapter.position)
    image = torch.randn(3, 5, 12, generator=generator)
    same(adapter(image)[1:2], adapter(image[1:2]))
    assert not torch.allclose(adapter(image.flip(1)).flip(1), adapter(image), atol=1e-3)  # it knows places
