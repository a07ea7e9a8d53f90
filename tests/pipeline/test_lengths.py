"""Lengths that a call asks for are kept to the word; the others are left to the model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_captioner import save_tiny_captioner, tiny_captioner

from clearcap import CaptionPipeline
from clearcap.captioner.generating import CaptionRequest
from clearcap.errors import InputError

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8) for seed in range(8)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(save_tiny_captioner(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("length", range(1, 9))
def test_an_asked_length_is_kept_to_the_word(length: int, pipeline: CaptionPipeline) -> None:
    for result in pipeline(PHOTOS, length=length, candidates=3):
        assert [len(caption.split()) for caption in result.candidates] == [length] * 3
        words = result.caption.split()
        assert all(one != two for one, two in pairwise(words))
    with pytest.raises(InputError, match="captions of this model have at most 8 words"):
        pipeline(PHOTOS, length=9)


def test_ranges_are_kept_too(pipeline: CaptionPipeline) -> None:
    for result in pipeline(PHOTOS, length=4, min_length=3, max_length=6, candidates=4):
        assert sorted(len(caption.split()) for caption in result.candidates) == [3, 4, 5, 6]


@pytest.mark.parametrize("length", [1, 6, 12, 15, 18])
def test_the_model_that_ships_writes_what_it_is_asked_for(length: int) -> None:
    loaded = CaptionPipeline.from_pretrained(backend="prepacked")
    for result in loaded(PHOTOS[:4], length=length):
        assert len(result.caption.split()) == length
        assert result.confidence > 0


def test_a_caption_that_keeps_its_length_already_is_left_as_it_is() -> None:
    captioner, tokenizer = tiny_captioner()
    words = torch.zeros(captioner.logits(torch.zeros(1, 10, 24)).shape[-1], dtype=torch.bool)
    words[[tokenizer.convert_tokens_to_ids(word) for word in ("a", "dog", "runs", "horses")]] = True
    a, dog, runs, horses = words.nonzero().flatten().tolist()
    special = captioner.text.special_ids[0]
    probabilities = torch.full((3, 10, len(words)), 1e-6)

    def read(rows: list[list[int]], seconds: list[list[int]], length: int) -> list[list[int]]:
        made = probabilities.clone()
        for row, (ids, others) in enumerate(zip(rows, seconds, strict=True)):
            for place, (first, second) in enumerate(zip(ids, others, strict=True)):
                made[row, place, second], made[row, place, first] = 0.3, 0.6
        captioner.keep_lengths(made, [CaptionRequest(0, 0, length)] * 2 + [CaptionRequest(0)], words)
        assert made.max(-1).values[2, :4].tolist() == pytest.approx([0.6] * 4)
        return made.argmax(-1)[:2, : length + 2].tolist()

    kept, again, free = [special, a, dog, special], [special, dog, dog, special], [special, a, a, special]
    found = read([kept, again, free], [[special, runs, runs, special]] * 3, 2)
    assert found == [kept, [special, dog, runs, special]]
    assert horses not in found[1]


def test_by_default_nothing_is_read_differently(pipeline: CaptionPipeline) -> None:
    plain = pipeline.captioner.generate(pipeline.pixels([np.zeros((64, 64, 3), np.uint8)]))
    asked = pipeline.captioner.generate(
        pipeline.pixels([np.zeros((64, 64, 3), np.uint8)]), whole_words=pipeline.whole_words()
    )
    assert torch.equal(plain.ids, asked.ids)  # no length is given
