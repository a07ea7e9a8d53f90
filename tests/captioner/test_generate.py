"""``Captioner.generate``: how settings reach the solvers, what is computed once, and the step callback."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_captioner import photos, tiny_captioner

from clearcap.captioner.generating import CaptionRequest, say_once
from clearcap.config import SamplingConfig
from clearcap.errors import InputError


def test_candidates_come_in_drawing_order_with_their_probabilities() -> None:
    captioner, _ = tiny_captioner()
    drawn = captioner.generate(image=photos(2), sampling=replace(captioner.defaults, candidates=3))
    assert drawn.ids.shape == drawn.confidence.shape == (2, 3, 10)
    assert ((drawn.confidence > 0) & (drawn.confidence <= 1)).all()
    assert len({tuple(ids) for ids in drawn.ids[0].tolist()}) > 1


@pytest.mark.parametrize("steps", [1, 30])
def test_the_photo_is_projected_once_whatever_the_steps_and_candidates(steps: int) -> None:
    captioner, _ = tiny_captioner()
    calls: list[tuple[str, int]] = []
    handles = [
        captioner.denoiser.adapter.register_forward_hook(lambda m, a, o: calls.append(("adapter", len(a[0]))))
    ]
    for block in captioner.denoiser.blocks:
        handles.append(
            block.attend_image.kv.register_forward_hook(lambda m, a, o: calls.append(("kv", len(a[0]))))
        )
    handles.append(
        captioner.vision.register_forward_hook(lambda m, a, o: calls.append(("vision", len(a[0]))))
    )
    how = SamplingConfig(steps=steps, candidates=4, guidance=1.5)
    captioner.generate(torch.rand(3, 3, 64, 64), sampling=how)
    for handle in handles:
        handle.remove()
    null = [("adapter", 1), ("kv", 1), ("kv", 1)]  # the null image of guidance, once for all photos
    assert sorted(calls) == sorted([("vision", 3), ("adapter", 3), ("kv", 3), ("kv", 3), *null])


def test_the_blocks_run_once_a_step_and_guidance_doubles_the_batch_on_its_share_only() -> None:
    captioner, _ = tiny_captioner()
    batches: list[int] = []
    handle = captioner.denoiser.blocks[0].register_forward_hook(lambda m, a, o: batches.append(len(a[0])))
    for low, high in ((0.0, 1.0), (0.3, 0.7)):
        captioner.generate(
            image=photos(2),
            sampling=SamplingConfig(steps=5, guidance=1.0, guidance_low=low, guidance_high=high),
        )
    captioner.generate(image=photos(2), sampling=SamplingConfig(steps=2, guidance=0.0))
    handle.remove()
    assert batches == [4] * 5 + [2, 2, 4, 4, 2] + [2, 2]  # levels 999, 799, 599, 400, 200


def test_the_network_is_not_called_for_captions_that_settled() -> None:
    captioner, _ = tiny_captioner()
    rows: list[int] = []
    handle = captioner.denoiser.blocks[0].register_forward_hook(lambda m, a, o: rows.append(len(a[0])))
    captioner.generate(
        image=photos(6), sampling=SamplingConfig(solver="plain", steps=20, guidance=0.0, early_exit=1)
    )
    handle.remove()
    assert rows[0] == 6
    assert rows == sorted(rows, reverse=True)
    assert sum(rows) < 6 * 20


def test_without_self_conditioning_the_network_never_sees_its_last_prediction() -> None:
    captioner, _ = tiny_captioner()
    seen: list[torch.Tensor] = []
    handle = captioner.denoiser.embed.register_forward_hook(lambda m, a, o: seen.append(a[0][..., 24:]))
    captioner.generate(image=photos(1), sampling=SamplingConfig(steps=3, self_condition=False))
    assert not torch.cat(seen).any()
    seen.clear()
    captioner.generate(image=photos(1), sampling=SamplingConfig(steps=3))
    handle.remove()
    assert [bool(x.any()) for x in seen] == [False, True, True]


def test_captions_of_one_batch_may_be_unevenly_spread_over_photos() -> None:
    captioner, _ = tiny_captioner()
    image = photos(2)
    x0 = captioner.sample(image, [CaptionRequest(0, 1), CaptionRequest(1, 1), CaptionRequest(1, 2)])
    torch.testing.assert_close(
        x0[:1], captioner.sample(image[:1], [CaptionRequest(0, 1)]), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        x0[1:],
        captioner.sample(image[1:], [CaptionRequest(0, 1), CaptionRequest(0, 2)]),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_callback_sees_each_step_and_can_change_the_prediction() -> None:
    captioner, _ = tiny_captioner()
    target = torch.randn(1, 10, 24, generator=torch.Generator().manual_seed(3))
    seen: list[tuple[int, int]] = []

    def callback(step: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((step, t))
        assert tensors["noisy"].shape == (1, 10, 24)
        return {"latents": target} if step == 4 else {}

    how = SamplingConfig(steps=5)
    changed = captioner.generate(image=photos(1), sampling=how, callback_on_step_end=callback)
    assert seen == list(enumerate([999, 799, 599, 400, 200]))
    assert torch.equal(changed.ids[0], captioner.text.decode(target).argmax(-1))
    unchanged = captioner.generate(image=photos(1), sampling=how, callback_on_step_end=lambda i, t, k: k)
    assert torch.equal(unchanged.ids, captioner.generate(image=photos(1), sampling=how).ids)


def test_bfloat16_weights_draw_captions() -> None:
    captioner, _ = tiny_captioner()
    half = type(captioner)(captioner.config)
    half.load_state_dict(captioner.state_dict())
    drawn = half.eval().to(torch.bfloat16).generate(image=photos(2).to(torch.bfloat16))
    assert drawn.confidence.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.generate(), "pass pixel_values or image"),
        (lambda c: c.generate(image=photos(1), callback_on_step_end=lambda *a: None), "return {}"),
        (
            lambda c: c.generate(
                image=photos(1), callback_on_step_end=lambda *a: {"latents": torch.zeros(1, 2, 3)}
            ),
            r"\(1, 10, 24\)",
        ),
        (lambda c: SamplingConfig(early_exit=-1), "early_exit=-1"),
        (lambda c: SamplingConfig(solver="euler"), "dpm-solver"),
        (lambda c: SamplingConfig(solver="ddpm", eta=0.5), "solver=ddim"),
        (lambda c: SamplingConfig(guidance_low=0.8, guidance_high=0.2), "swap"),
        (lambda c: SamplingConfig(refine_share=1.5), "between 0 and 1"),
        (
            lambda c: SamplingConfig(length=6, min_length=8, max_length=11),
            "length=6 must lie between min_length=8",
        ),
        (lambda c: SamplingConfig(length=0, max_length=11), "length=0 must lie between"),
        (lambda c: SamplingConfig(spacing="cubic"), "trailing"),
    ],
)
def test_bad_requests(call, message: str) -> None:
    captioner, _ = tiny_captioner()
    with pytest.raises(InputError, match=message):
        call(captioner)


def test_captions_have_the_length_they_are_given() -> None:
    captioner, _ = tiny_captioner()
    how = replace(captioner.defaults, length=3, min_length=2, max_length=5, candidates=6)
    drawn = captioner.generate(image=photos(2), sampling=how)
    special = torch.tensor(captioner.text.special_ids)
    for candidate, words in enumerate([3, 2, 4, 5, 3, 2]):
        told = drawn.ids[:, candidate, 1 : words + 1]
        assert not torch.isin(told, special).any()
    alone = captioner.generate(image=photos(2)[1:], sampling=replace(how, candidates=1))
    assert torch.equal(alone.ids[0, 0], drawn.ids[1, 0])
    free = captioner.generate(image=photos(2), sampling=replace(how, length=0, min_length=0, max_length=0))
    assert not torch.equal(free.ids, drawn.ids)


def test_the_denoiser_sees_where_a_caption_of_given_length_ends() -> None:
    captioner, tokenizer = tiny_captioner()
    seen: list[torch.Tensor] = []
    handle = captioner.denoiser.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    unguided = captioner.sampler(replace(captioner.defaults, guidance=0.0))
    captioner.sample(photos(1), [CaptionRequest(0, length=4)], sampler=unguided)
    handle.remove()
    ids = torch.tensor([[2, 4, 4, 4, 4, 3, 0, 0, 0, 0]])
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist())[1] == "[MASK]"
    latent = captioner.text.encode(ids, (ids != 0).long())
    for x in seen:
        torch.testing.assert_close(x[:, [0, 5, 6, 9]], latent[:, [0, 5, 6, 9]])
        assert not torch.allclose(x[:, 1:5], latent[:, 1:5])


@pytest.mark.parametrize(("words", "message"), [(9, "at most 8 words"), (2, "not trained to be given")])
def test_lengths_that_cannot_be_given(words: int, message: str) -> None:
    captioner, _ = tiny_captioner()
    if words == 2:
        captioner = copy.deepcopy(captioner)
        del captioner.config.tokens["mask"]
    with pytest.raises(InputError, match=message):
        captioner.generate(image=photos(1), sampling=replace(captioner.defaults, length=words))


@torch.inference_mode()
def test_a_clamped_prediction_is_what_the_text_space_says_of_its_likeliest_words() -> None:
    captioner, _ = tiny_captioner()
    known = captioner.fixed_lengths([CaptionRequest(0, length=length) for length in (3, 5)])
    x0 = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(5))
    clamped = captioner.nearest_words(x0, known)
    tokens, logits = captioner.config.tokens, captioner.logits(x0)
    for row, length in enumerate((3, 5)):
        words = logits[row, 1 : length + 1]
        words[:, list(captioner.text.special_ids)] = -torch.inf
        said = [tokens["cls"], *words.argmax(-1).tolist(), tokens["sep"]]
        ids = torch.tensor([said + [tokens["pad"]] * (10 - len(said))])
        mask = (torch.arange(10) < len(said)).long()[None]
        torch.testing.assert_close(clamped[row], captioner.text.encode(ids, mask)[0])


def test_clamping_needs_told_lengths() -> None:
    captioner, _ = tiny_captioner()
    with pytest.raises(InputError, match="clamp needs captions of told lengths"):
        SamplingConfig(clamp=True)
    with pytest.raises(InputError, match="pass length=10, say, or clamp=False"):
        captioner.nearest_words(torch.zeros(1, 10, 24), None)


def said_once(rows: list[list[float]], often: set[int]) -> list[int]:
    """The words of one caption by trying all: the surest of equal words stays, the others take their next."""
    probabilities = torch.tensor(rows, dtype=torch.float64).softmax(-1)
    banned = torch.zeros_like(probabilities, dtype=torch.bool)
    while True:
        words = probabilities.masked_fill(banned, -1).argmax(-1).tolist()
        told = [w for w in words if w not in often and words.count(w) > 1]
        if not told:
            return words
        word = max(told, key=lambda w: (words.count(w), -words.index(w)))
        left = probabilities.masked_fill(banned, 0)
        sure = (left / left.sum(-1, keepdim=True))[:, word]
        at = [i for i, w in enumerate(words) if w == word]
        best = max(at, key=lambda i: float(sure[i]))
        for i in at:
            banned[i, word] = i != best


def test_each_word_of_content_is_said_where_it_is_likeliest() -> None:
    draw = torch.Generator().manual_seed(0)
    for library in (torch.tensor, np.array):
        for _ in range(20):
            rows = 2 * torch.randn(4, 8, 6, generator=draw)
            logits = library(rows.numpy())
            say_once(logits, [range(1, 7)] * 4, frozenset({0, 2}))
            for one, found in zip(rows, logits.argmax(-1).tolist(), strict=True):
                assert found[1:7] == said_once(one[1:7].tolist(), {0, 2})
                assert [found[0], found[7]] == [int(one[0].argmax()), int(one[7].argmax())]


def test_captions_say_no_word_of_content_twice_and_clamping_shows_none() -> None:
    captioner, tokenizer = copy.deepcopy(tiny_captioner())
    captioner.function_words, captioner.tokenizer = frozenset({"a", "the"}), tokenizer
    words = tokenizer.get_vocab()
    assert captioner.often == {*captioner.text.special_ids, words["a"], words["the"]}
    how = replace(captioner.defaults, steps=3, solver="renoise", clamp=True, length=8, candidates=8)
    shown: list[torch.Tensor] = []

    def repeats(how: SamplingConfig) -> tuple[int, int]:
        shown.clear()
        ids = captioner.generate(
            image=photos(4),
            sampling=how,
            callback_on_step_end=lambda step, t, tensors: shown.append(tensors["latents"]) or {},
        ).ids[..., 1:9]
        fixed = captioner.fixed_lengths([CaptionRequest(0, length=8)] * 32)
        nearest = captioner.nearest_words(shown[0], fixed, once=how.once)
        clamped = captioner.logits(nearest).argmax(-1)[:, 1:9]
        return tuple(  # type: ignore[return-value]
            sum(n > 1 and w not in captioner.often for row in rows for w, n in Counter(row).items())
            for rows in (ids.flatten(0, 1).tolist(), clamped.tolist())
        )

    assert min(repeats(how)) > 0
    assert repeats(replace(how, once=True))[0] == 0
    captioner.tokenizer = None  # words are not known, and all may be said twice
    assert repeats(replace(how, once=True)) == repeats(how)
