"""Captions word by word: where words look, what could stand there, which are forbidden; candidates watched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import Image

from clearcap import CaptionPipeline
from clearcap.arrays.layers import CrossAttention
from clearcap.captioner.attention import on_grid, recorded_attention
from clearcap.errors import InputError
from clearcap.pipeline.words import lit, place_of, save_attention

PHOTO = Path(get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def pipeline() -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(backend="prepacked")


@pytest.fixture(scope="module", params=["prepacked", "onnx"])
def either(request: pytest.FixtureRequest) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(backend=request.param)


def test_recorded_weights_are_those_that_attention_is_made_of() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(8, 2, 6)
    h, (k, v) = torch.randn(3, 4, 8), layer.keys_values(torch.randn(1, 5, 6))
    with recorded_attention(layer) as found:
        out = layer(h, (k, v))
    assert found[0].shape == (4, 5)
    torch.testing.assert_close(found[0].sum(-1), torch.ones(4))
    # All heads' values the same, the layer's output is the mean weights' sum of them.
    same = v.mean(1, keepdim=True).expand_as(v)
    with recorded_attention(layer) as found:
        out = layer(h, (k.mean(1, keepdim=True).expand_as(k), same))
    q = layer.q(h[:1]).unflatten(-1, (2, -1)).transpose(1, 2)
    by_hand = (q @ k.mean(1, keepdim=True).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    torch.testing.assert_close(found[0], by_hand.mean(1)[0])
    torch.testing.assert_close(out[:1], layer.out((by_hand @ same).transpose(1, 2).flatten(2)))


def test_tokens_lie_on_the_grid_as_on_the_photo_without_a_class_token() -> None:
    weights = torch.arange(10.0)[None]
    assert on_grid(weights)[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert on_grid(weights[:, :9])[0, 0].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="square"):
        on_grid(weights[:, :7])


def test_attention_follows_what_is_on_the_photo(pipeline: CaptionPipeline, tmp_path: Path) -> None:
    caption = "a man wearing a suit and a tie"
    looks = pipeline.attention(PHOTO, caption)
    assert looks.words == tuple(caption.split())
    assert looks.maps.shape == (8, 7, 7)
    np.testing.assert_allclose(looks.maps.sum((1, 2)), 1, rtol=1e-5)
    mirrored = Image.open(PHOTO).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other = pipeline.attention(mirrored, caption).maps
    as_mirrored, as_it_was = np.abs(other[:, :, ::-1] - looks.maps).sum(), np.abs(other - looks.maps).sum()
    assert as_mirrored < as_it_was
    assert pipeline.attention(PHOTO).words == tuple(word for word, _ in pipeline(PHOTO).words)
    save_attention(looks, PHOTO, tmp_path / "where.png")
    assert Image.open(tmp_path / "where.png").width > 500
    with pytest.raises(InputError, match="rename"):
        save_attention(looks, PHOTO, tmp_path / "where.txt")
    with pytest.raises(InputError, match="no word"):
        pipeline.attention(PHOTO, "a 🦄")


def test_a_photo_is_lit_where_the_map_is_high() -> None:
    heat = np.zeros((3, 3))
    heat[2, 0] = 1
    assert place_of(heat) == "bottom left"
    assert place_of(heat.T) == "top right"
    picture = np.asarray(lit(Image.new("RGB", (90, 60), (100, 100, 100)), heat), dtype=int)
    assert picture.shape == (60, 90, 3)
    assert picture[55, 5, 0] > 2 * picture[5, 85, 0]


def test_alternatives_leave_the_other_words_and_hold_what_filling_says(either: CaptionPipeline) -> None:
    caption = "a man wearing a suit and a tie"
    found = either.alternatives(PHOTO, caption, count=4, steps=4)
    assert [len(one) for one in found] == [4] * 8
    for place in (1, 4):
        words = caption.split()
        words[place] = "___"
        filled = either.fill(PHOTO, " ".join(words), steps=4)
        assert found[place][0][0] == filled.words[0]
        assert sorted((p for _, p in found[place]), reverse=True) == [p for _, p in found[place]]


def test_a_forbidden_word_fills_no_blank(either: CaptionPipeline) -> None:
    free = either.fill(PHOTO, "a ___ in a ___")
    kept = either.fill(PHOTO, "a ___ in a ___", forbid=[free.words[0].upper()])
    assert free.words[0] not in kept.words
    assert (
        either.fill(PHOTO, f"a {free.words[0]} in a ___", forbid=[free.words[0]]).text.split()[1]
        == free.words[0]
    )


@pytest.mark.parametrize(
    "how", [{}, {"candidates": 5, "length": 8}, {"candidates": 3, "select": "confidence"}]
)
def test_watching_ends_in_what_a_call_says(either: CaptionPipeline, how: dict) -> None:
    frames: list = []
    watched = either.watch(PHOTO, frames.append, seed=3, **how)
    assert watched.result == either(str(PHOTO), seed=3, **how)
    count = either.sampling(**how).candidates
    assert [len(step) for step in frames] == [count] * (either.sampling(**how).steps + 1)
    assert [step[0].index for step in frames] == [*range(-1, len(frames) - 1)]
    assert watched.result.candidates[watched.chosen] == watched.result.caption
    assert len(watched.values) == count
    assert watched.values[watched.chosen] == max(watched.values)
    assert frames[0][0].text != frames[-1][0].text  # the noise says something else


def test_a_trajectory_may_begin_with_the_noise(either: CaptionPipeline) -> None:
    plain = either.trajectory(PHOTO, steps=3)
    noisy = either.trajectory(PHOTO, steps=3, noise=True)
    assert noisy[1:] == plain
    assert noisy[0].index == -1
    assert noisy[0].text != plain[0].text


def test_graphs_say_which_captioner_shows_where_words_look() -> None:
    graphs = CaptionPipeline.from_pretrained(backend="onnx")
    with pytest.raises(InputError, match='backend="torch"'):
        graphs.attention(PHOTO, "a man")


def test_alternatives_are_the_same_in_torch_and_on_graphs(pipeline: CaptionPipeline) -> None:
    graphs = CaptionPipeline.from_pretrained(backend="onnx")
    for one, other in zip(
        *(model.alternatives(PHOTO, "a man wearing a suit", count=3) for model in (pipeline, graphs)),
        strict=True,
    ):
        assert [word for word, _ in one] == [word for word, _ in other]
        np.testing.assert_allclose([p for _, p in one], [p for _, p in other], atol=0.01)
