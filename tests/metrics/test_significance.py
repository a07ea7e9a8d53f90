"""Bootstrap and tests against naive resampling and cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from clearcap.errors import InputError
from clearcap.metrics import bleu, score
from clearcap.metrics.interface import Captions, Pooled
from clearcap.metrics.significance import compare, intervals
from clearcap.registry import register

WORDS = ["dog", "cat", "man", "runs", "sits", "on", "grass", "the", "red", "ball"]


def corpus(seed: int, noise: float, photos: int = 60) -> tuple[dict, dict]:
    """References of six words; candidates that repeat the first one with some words replaced."""
    rng, plain = np.random.default_rng(seed), np.random.default_rng(1)
    references = {p: [" ".join(plain.choice(WORDS, 6)) for _ in range(2)] for p in range(photos)}
    hypotheses = {}
    for photo, (first, _) in references.items():
        words = [str(rng.choice(WORDS)) if rng.random() < noise else word for word in first.split()]
        hypotheses[photo] = " ".join(words)
    return hypotheses, references


def test_resampled_bleu_is_bleu_of_the_resampled_photos() -> None:
    hypotheses, references = corpus(0, 0.4)
    table = score(hypotheses, references).pooled[0].rows
    drawn = np.random.default_rng(3).integers(0, 60, 60)
    weights = np.bincount(drawn, minlength=60)
    renamed = {i: int(p) for i, p in enumerate(drawn)}
    again = score(
        {i: hypotheses[p] for i, p in renamed.items()},
        {i: references[p] for i, p in renamed.items()},
        ("BLEU",),
    )
    np.testing.assert_allclose(bleu.from_statistics(weights @ table), list(again.corpus.values()), atol=1e-12)


def test_the_former_name_of_the_rows_still_works() -> None:
    scores = score(*corpus(0, 0.4))
    with pytest.warns(DeprecationWarning, match="pooled"):
        assert scores.bleu_statistics is scores.pooled[0].rows


def test_intervals_hold_the_estimate_and_are_seeded() -> None:
    scores = score(*corpus(0, 0.4))
    found = intervals(scores, samples=300, seed=5)
    assert set(found) == set(scores.corpus)
    for name, interval in found.items():
        assert interval.low < interval.estimate == scores.corpus[name] < interval.high
    assert found == intervals(scores, samples=300, seed=5)
    assert found != intervals(scores, samples=300, seed=6)


def test_interval_of_a_mean_agrees_with_the_normal_approximation() -> None:
    scores = score(*corpus(0, 0.4, photos=400), ("ROUGE-L",))
    values = np.array(list(scores.per_caption["ROUGE-L"].values()))
    interval = intervals(scores, samples=4000)["ROUGE-L"]
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.08)


def test_a_better_system_is_significant_and_an_equal_one_is_not() -> None:
    good, bad, alike = (score(*corpus(seed, noise)) for seed, noise in ((0, 0.1), (1, 0.7), (2, 0.1)))
    for comparison in compare(good, bad, samples=500).values():
        assert comparison.difference.low > 0
        assert comparison.p_permutation < 0.01
        assert comparison.p_bootstrap < 0.01
    for comparison in compare(good, alike, samples=500).values():
        assert comparison.difference.low < 0 < comparison.difference.high
        assert comparison.p_permutation > 0.05


def test_a_system_against_itself_differs_by_nothing() -> None:
    scores = score(*corpus(0, 0.4))
    for comparison in compare(scores, scores, samples=50).values():
        assert comparison.difference.low == comparison.difference.high == 0
        assert comparison.p_permutation == comparison.p_bootstrap == 1


def test_swapping_the_systems_swaps_the_sign_and_keeps_the_p_value() -> None:
    a, b = score(*corpus(0, 0.3)), score(*corpus(1, 0.5))
    one, other = compare(a, b, samples=200), compare(b, a, samples=200)
    for name in one:
        assert one[name].difference.estimate == -other[name].difference.estimate
        assert one[name].difference.low == pytest.approx(-other[name].difference.high)
        assert one[name].p_permutation == other[name].p_permutation


def test_photos_may_come_in_any_order() -> None:
    hypotheses, references = corpus(1, 0.5)
    a, b = score(*corpus(0, 0.3)), score(hypotheses, references)
    backwards = score(dict(reversed(hypotheses.items())), references)
    one, other = compare(a, b, samples=100), compare(a, backwards, samples=100)
    assert one["BLEU-4"].difference.low == pytest.approx(other["BLEU-4"].difference.low)


@register("metric", "geometric mean of lengths")
def geometric_mean(captions: Captions) -> Pooled:
    """Whose corpus score is no mean over photos."""
    lengths = np.array([float(len(tokens)) for tokens in captions.candidate_tokens])
    rows = np.stack([np.log(lengths), np.ones(len(lengths))], 1)

    def of_sum(rows: np.ndarray) -> np.ndarray:
        return np.exp(rows[..., :1] / rows[..., 1:])

    return Pooled({"geometric": (float(of_sum(rows.sum(0))[0]), lengths)}, rows, of_sum)


@register("metric", "longest")
def longest(captions: Captions) -> Pooled:
    """Which selections cannot be scored by."""
    lengths = np.array([float(len(tokens)) for tokens in captions.candidate_tokens])
    return Pooled({"longest": (lengths.max(), lengths)})


def test_a_metric_says_how_selections_of_photos_are_scored() -> None:
    hypotheses = {p: " ".join(["dog"] * (1 + p % 5)) for p in range(40)}
    references = {p: ["dog"] for p in hypotheses}
    scores = score(hypotheses, references, ("longest", "geometric mean of lengths", "BLEU"))
    assert scores.corpus["geometric"] == pytest.approx(120 ** (1 / 5))
    assert scores.corpus["longest"] == 5
    found = intervals(scores)
    assert list(found) == ["geometric", *bleu.NAMES]
    assert found["geometric"].low < scores.corpus["geometric"] < found["geometric"].high
    assert list(compare(scores, scores, samples=50)) == list(found)


def test_different_photos_are_refused() -> None:
    with pytest.raises(InputError, match="different photos"):
        compare(score({1: "a"}, {1: ["a"]}), score({2: "a"}, {2: ["a"]}))


@pytest.mark.parametrize("settings", [{"samples": 0}, {"level": 1.0}])
def test_bad_settings_are_named(settings) -> None:
    with pytest.raises(InputError, match=f"{next(iter(settings))}="):
        intervals(score({1: "a"}, {1: ["a"]}), **settings)


def test_runs_of_one_system_are_pooled_by_photo() -> None:
    """Twice the same run is that run; runs that differ have the mean of their scores, and no narrower an interval."""
    a, b = (score(*corpus(seed, 0.4)) for seed in (0, 5))
    other = score(*corpus(7, 0.7))
    for once, twice in (
        (intervals(a), intervals([a, a])),
        (compare(a, other), compare([a, a], [other, other])),
    ):
        for name, one in once.items():
            found = twice[name]
            for mine, theirs in zip(vars(one).values(), vars(found).values(), strict=True):
                if isinstance(mine, float):
                    assert np.isclose(mine, theirs, atol=1e-9), name
    both = intervals([a, b])
    assert np.isclose(both["CIDEr-D"].estimate, (a.corpus["CIDEr-D"] + b.corpus["CIDEr-D"]) / 2)
    hypotheses, references = corpus(0, 0.4)
    joined = {f"a{p}": text for p, text in hypotheses.items()} | {
        f"b{p}": text for p, text in corpus(5, 0.4)[0].items()
    }
    told = {f"{run}{p}": texts for run in "ab" for p, texts in references.items()}
    assert np.isclose(both["BLEU-4"].estimate, score(joined, told, ("BLEU",)).corpus["BLEU-4"])
    with pytest.raises(InputError, match="2 runs cannot be exchanged with 1"):
        compare([a, b], other)
    with pytest.raises(InputError, match="cover different photos"):
        intervals([a, score(*corpus(0, 0.4, photos=59))])
