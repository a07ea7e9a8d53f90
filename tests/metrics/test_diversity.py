"""Diversity against hand counts and naive computations."""

from __future__ import annotations

import numpy as np
import pytest

from clearcap.errors import InputError
from clearcap.metrics import DocumentFrequency, score
from clearcap.metrics.diversity import diversity, repeating, said_twice, self_cider

SETS = [["A dog runs.", "a dog runs", "the cat"], ["a bird", "a bird sings"]]


def test_counts() -> None:
    found = diversity(SETS)
    assert found.captions == 5
    assert found.distinct == 4 / 5  # the full stop does not make a difference
    assert found.distinct_corpus == 4
    assert found.vocabulary == len({"a", "dog", "runs", "the", "cat", "bird", "sings"})
    assert (found.lengths.shortest, found.lengths.longest, found.lengths.median) == (2, 3, 3)
    assert found.lengths.mean == 13 / 5
    assert found.lengths.deviation == pytest.approx(np.std([3, 3, 2, 2, 3]))


def test_m_bleu_is_bleu_against_the_other_candidates() -> None:
    hypotheses = {(s, i): caption for s, captions in enumerate(SETS) for i, caption in enumerate(captions)}
    others = {(s, i): [c for j, c in enumerate(SETS[s]) if j != i] for s, i in hypotheses}
    renamed = {key: str(key) for key in hypotheses}
    expected = score(
        {renamed[key]: text for key, text in hypotheses.items()},
        {renamed[key]: texts for key, texts in others.items()},
        ("BLEU",),
    )
    assert diversity(SETS).m_bleu == pytest.approx(expected.corpus)


def test_self_cider_runs_from_alike_to_unrelated() -> None:
    alike, unrelated = ["a dog runs fast"] * 3, ["a dog runs fast", "the cat sleeps here", "two men talk now"]
    assert self_cider(alike) == pytest.approx(0, abs=1e-6)
    assert self_cider(unrelated) == pytest.approx(1, abs=1e-6)
    assert 0.1 < self_cider(["a dog runs fast", "a dog runs slow", "a dog sits here"]) < 0.9


def test_self_cider_equals_a_naive_computation() -> None:
    captions = ["a dog runs", "a dog sits", "the cat sits on a dog"]
    references = [["a dog", "a dog runs"], ["the cat"], ["a bird"], ["two cats"]]
    frequency = DocumentFrequency.of(references)
    kernel = np.zeros((3, 3))
    for n in (1, 2, 3, 4):
        vectors = []
        for caption in captions:
            words = caption.split()
            grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
            idf = {g: np.log(4 / max(1, frequency.counts.get(g, 0))) for g in grams}
            vectors.append({g: grams.count(g) * idf[g] for g in grams})
        for i, a in enumerate(vectors):
            for j, b in enumerate(vectors):
                norms = np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
                kernel[i, j] += sum(a[g] * b.get(g, 0) for g in a) / norms / 4 if norms else 0
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(kernel), 0, None))
    expected = -np.log(roots.max() / roots.sum()) / np.log(3)
    assert self_cider(captions, frequency) == pytest.approx(expected)


def test_one_candidate_a_photo_has_no_diversity_within_photos() -> None:
    found = diversity([["a dog"], ["a cat"]])
    assert found.self_cider is None
    assert found.m_bleu is None
    assert found.distinct == 1


def test_a_repetition_counts_unless_a_reference_has_it() -> None:
    small = {"a", "and", "with"}
    assert said_twice(["a", "dog", "with", "a", "dog", "and", "dogs"], small) == {"dog"}
    assert said_twice(["a", "dog", "with", "a", "dog"], ()) == set()
    captions = {"1": "A dog with a dog.", "2": "a man and a man", "3": "a man with a dog"}
    references = {"1": ["a dog", "a bird"], "2": ["A man, and a man!", "a man"], "3": ["a dog and a dog"]}
    assert repeating(captions, references, small) == 1 / 3


def test_empty_captions_are_alike() -> None:
    assert self_cider(["", "."]) == 0


@pytest.mark.parametrize("candidates", [[], [["a"], []]])
def test_photos_without_candidates_are_refused(candidates) -> None:
    with pytest.raises(InputError, match="at least one candidate"):
        diversity(candidates)


def test_self_cider_needs_two() -> None:
    with pytest.raises(InputError, match="two or more"):
        self_cider(["a"])
