"""Choosing among candidates, against plain loops over pycocoevalcap's scorers and against hand-made cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearcap.errors import InputError
from clearcap.metrics import bleu, cider
from clearcap.sampling.selection import (
    Candidates,
    by_agreement,
    by_confidence,
    choose,
    diverse,
    expected_utility,
    mean_confidences,
)

DOGS = ["a dog runs on grass", "a dog runs on the grass", "a dog is running on grass", "two men ride horses"]
captions = st.lists(
    st.lists(st.sampled_from(["a", "dog", "runs", "on", "grass"]), min_size=1).map(" ".join), min_size=1
)


@pytest.mark.parametrize("utility", ["bleu", "cider"])
def test_mbr_rejects_the_outlier_and_prefers_the_consensus(utility: str) -> None:
    values = expected_utility(DOGS, utility)
    assert np.argmin(values) == 3
    assert choose(DOGS, utility=utility) == np.argmax(values) != 3


@settings(max_examples=40, deadline=None)
@given(captions)
def test_mbr_is_the_mean_utility_against_each_other_candidate(captions: list[str]) -> None:
    expected = []
    for i, mine in enumerate(captions):
        others = [c for j, c in enumerate(captions) if j != i]
        utilities = [bleu.pairwise([mine, other])[0, 1] for other in others]
        expected.append(np.mean(utilities) if utilities else 0.0)
    assert np.allclose(expected_utility(captions), expected, atol=1e-12)


def test_expected_utility_is_a_mean_over_the_others() -> None:
    for drawn in (DOGS, DOGS[:2], DOGS[2:]):
        table = bleu.pairwise(drawn)
        count = len(drawn)
        expected = [sum(table[i, j] for j in range(count) if j != i) / (count - 1) for i in range(count)]
        assert expected_utility(drawn) == pytest.approx(expected)
    assert expected_utility(DOGS[:1]) == [0]


def test_a_caption_that_says_a_word_of_content_twice_is_chosen_only_where_all_do() -> None:
    captions = ["a dog and a dog on a bench", "a dog on the edge of the grass", "a Man beside a man"]
    sure = [[0.9] * 8, [0.5] * 7, [0.95] * 5]
    small = frozenset(["a", "and", "of", "on", "the"])
    assert choose(captions, "confidence", confidences=sure) == 2
    assert choose(captions, "confidence", confidences=sure, function_words=small) == 1
    twice = [captions[0], captions[2]]
    assert choose(twice, "confidence", confidences=[sure[0], sure[2]], function_words=small) == 1
    assert choose(captions * 2, "mbr", function_words=small) in (1, 4)


def test_a_caption_drawn_twice_counts_twice() -> None:
    assert choose(["a cat", "a dog runs", "a cat"]) == 0
    assert choose(["a dog runs", "a cat", "a dog runs"]) == 0


def test_empty_captions_have_no_utility() -> None:
    assert expected_utility(["", "a dog", "a dog"])[0] == 0
    assert expected_utility(["", ""]) == [0, 0]


def test_confidence_is_the_geometric_mean() -> None:
    assert np.allclose(mean_confidences([[0.5, 0.5, 0.5], [0.25, 1.0], [0.9], []]), [0.5, 0.5, 0.9, 0])
    assert choose(["a", "b", "c"], "confidence", confidences=[[0.2], [0.9, 0.9], [0.95, 0.1]]) == 1


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 1.3, 2.0])
def test_the_length_penalty_divides_log_probabilities_by_words_to_its_power(penalty: float) -> None:
    """Which is how transformers' beam search scores a finished caption."""
    sure = [[0.9, 0.8], [0.85, 0.8, 0.86, 0.8], [0.7] * 7, [0.3]]
    values = by_confidence(Candidates(["a b", "a b c d", "a b c d e f g", "a"], sure, length_penalty=penalty))
    expected = [sum(math.log(p) for p in words) / len(words) ** penalty for words in sure]
    assert np.allclose(np.log(values), expected)
    best = choose(
        ["a b", "a b c d", "a b c d e f g", "a"], "confidence", confidences=sure, length_penalty=penalty
    )
    assert best == int(np.argmax(expected)) == (1 if penalty > 1 else 0)


def test_a_caption_without_words_is_never_the_surest() -> None:
    assert by_confidence(Candidates(["", "a"], [[], [0.1]], length_penalty=1.5)) == [0.0, pytest.approx(0.1)]


def test_confidence_breaks_ties_of_mbr() -> None:
    assert choose(["a dog", "a cat"], confidences=[[0.1], [0.2]]) == 1


def test_similarity_to_the_photo() -> None:
    assert choose(["a", "b"], "similarity", similarity=[0.1, 0.3]) == 1


def test_diverse_starts_with_the_best_and_never_repeats_while_it_can_help_it() -> None:
    drawn = [*DOGS, DOGS[0]]
    picked = diverse(drawn, 4)
    assert picked[0] == np.argmax(expected_utility(drawn))
    assert len({drawn[i] for i in picked}) == 4
    assert sorted(diverse(drawn, 5)) == [0, 1, 2, 3, 4]
    assert 3 in diverse(drawn, 2, novelty=1.0)


def test_confidence_and_similarity_weigh_as_a_logarithm_and_twice_a_cosine() -> None:
    sure, similarity = [[0.9, 0.4], [0.5, 0.5], [0.2, 0.8]], [0.1, 0.3, 0.35]
    values = [
        0.5 * math.log(one[0] * one[1]) + 2 * cosine for one, cosine in zip(sure, similarity, strict=True)
    ]
    chosen = choose(["a", "b", "c"], "confidence-and-similarity", confidences=sure, similarity=similarity)
    assert chosen == values.index(max(values)) == 1
    assert choose(["a", "b", "c"], "confidence", confidences=sure) == 0
    assert choose(["a", "b", "c"], "similarity", similarity=similarity) == 2


def test_novelty_lowers_the_similarity_within_the_set() -> None:
    def likeness(novelty: float) -> float:
        texts = [DOGS[i] for i in diverse(DOGS, 3, novelty=novelty)]
        table = bleu.pairwise(texts)
        return float(np.mean([table[i, j] for i, j in itertools.permutations(range(3), 2)]))

    assert likeness(0.9) <= likeness(0.0)


def marginal_relevance(captions: list[str], count: int, novelty: float, utility) -> list[int]:
    """Carbonell and Goldstein's picks in plain loops, everything as a share of the greatest utility of a pair."""
    table = utility(captions)
    top, everyone = table.max(), range(len(captions))
    value = [sum(table[i, j] for j in everyone if j != i) / (len(captions) - 1) / top for i in everyone]
    picked = [max(everyone, key=lambda i: value[i])]
    while len(picked) < count:
        new = [i for i in everyone if captions[i] not in {captions[j] for j in picked}]
        left = new or [i for i in everyone if i not in picked]
        merit = {
            i: (1 - novelty) * value[i] - novelty * max(max(table[i, j], table[j, i]) for j in picked) / top
            for i in left
        }
        picked.append(max(left, key=lambda i: merit[i]))
    return picked


@pytest.mark.parametrize("utility", ["bleu", "cider"])
@pytest.mark.parametrize("novelty", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_diverse_picks_are_marginal_relevance_written_out(utility: str, novelty: float) -> None:
    drawn = [*DOGS, DOGS[1], "a cat sleeps on the grass", "two men ride", "a dog on the grass", DOGS[3]]
    pairwise = {"bleu": bleu.pairwise, "cider": cider.pairwise}[utility]
    for count in (1, 3, 7, 9):
        expected = marginal_relevance(drawn, count, novelty, pairwise)
        assert diverse(drawn, count, utility=utility, novelty=novelty) == expected


def test_diverse_weighs_both_alike_and_takes_bleu_unless_told() -> None:
    drawn = [*DOGS, "a cat sleeps on the grass", "two men ride", "a dog on the grass"]
    assert diverse(drawn, 5) == marginal_relevance(drawn, 5, 0.5, bleu.pairwise)
    assert diverse(["a dog"], 1) == [0]
    assert diverse(["", ""], 2) == [0, 1]


def test_cider_judges_by_the_frequencies_it_is_given() -> None:
    frequency = cider.DocumentFrequency.of([["a dog runs on grass"], ["a dog on a cat"], ["two men ride"]])
    table = cider.pairwise(DOGS, frequency)
    expected = [sum(table[i, j] for j in range(4) if j != i) / 3 for i in range(4)]
    assert expected_utility(DOGS, "cider", frequency) == pytest.approx(expected)
    assert expected_utility(DOGS, "cider") != pytest.approx(expected)
    assert by_agreement(Candidates(DOGS, utility="cider", frequency=frequency)) == pytest.approx(expected)
    rule = [choose(DOGS, utility="cider", frequency=frequency), choose(DOGS, utility="cider")]
    assert rule == [int(np.argmax(expected)), int(np.argmax(expected_utility(DOGS, "cider")))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose([]), "no candidates"),
        (lambda: choose(["a"], "best"), "mbr, confidence, similarity"),
        (lambda: choose(["a"], "confidence"), "pass confidences"),
        (lambda: choose(["a", "b"], "similarity", similarity=[1.0]), "1 values for 2 candidates"),
        (lambda: expected_utility(["a"], "rouge"), "bleu, cider"),
        (lambda: diverse(["a"], 2), "sample more"),
        (lambda: diverse(["a"], 1, novelty=2.0), "between 0 and 1"),
    ],
)
def test_bad_requests(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
