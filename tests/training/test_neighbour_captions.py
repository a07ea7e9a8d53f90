"""Neighbour captions: the ones pycocoevalcap's CIDEr ranks first, and never the photo's own."""

from __future__ import annotations

import numpy as np
import pytest

from clearcap.training.neighbours import best_first, neighbour_captions

WORDS = ["dog", "cat", "man", "red", "ball", "runs", "sits", "grass", "snow", "house", "two", "big"]


def corpus(seed: int = 0, photos: int = 8, each: int = 3) -> list[list[str]]:
    """Captions of six different words each: with equal lengths and no repeats CIDEr-D is CIDEr."""
    rng = np.random.default_rng(seed)
    return [[" ".join(rng.permutation(WORDS)[:6]) for _ in range(each)] for _ in range(photos)]


def test_finds_what_pycocoevalcap_ranks_first() -> None:
    Cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider
    groups = corpus()
    references = dict(enumerate(groups))
    agreement = {}
    for caption in (caption for group in groups for caption in group):
        _, scores = Cider().compute_score(references, {photo: [caption] for photo in references})
        agreement[caption] = scores / 10
    for photo, captions in enumerate(neighbour_captions(groups, 5)):
        others = [caption for caption in agreement if caption not in groups[photo]]
        best = sorted((agreement[caption][photo] for caption in others), reverse=True)[:5]
        assert not set(captions) & set(groups[photo])
        np.testing.assert_allclose([agreement[caption][photo] for caption in captions], best, atol=1e-9)


def test_repeats_no_caption_and_none_of_the_photos_own() -> None:
    groups = [
        ["A dog runs .", "the dog"],
        ["a dog runs", "a dog is running"],
        ["a dog runs !", "a dog is running", "a cat"],
        ["a bird"],
    ]
    first, second, third, last = neighbour_captions(groups, 2)
    assert first == ["a dog is running"]  # "a dog runs" is its own, whatever the punctuation
    assert second == ["the dog"]
    assert third == ["the dog"]
    assert last == []  # "a" is in every photo's captions and says nothing


def test_photos_with_nothing_in_common_find_nothing() -> None:
    assert neighbour_captions([["a dog"], ["two cats"]], 3) == [[], []]


def test_best_first_is_a_stable_sort_whatever_is_taken_first() -> None:
    agreement = np.random.default_rng(0).integers(0, 6, 40) / 5  # many equals
    everything = np.argsort(-agreement, kind="stable").tolist()
    for some in (1, 7, 39, 40, 100):
        assert list(best_first(agreement, some)) == everything
