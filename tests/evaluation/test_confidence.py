"""Confidence: the curve against its likelihood's slope, errors counted by hand, and what is no photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import clearcap
from clearcap import CaptionPipeline
from clearcap.errors import InputError
from clearcap.evaluation.confidence import calibration_error, rank_correlation, trust, words_of
from clearcap.evaluation.journal import Captioned
from clearcap.evaluation.scores import repeating
from clearcap.pipeline.calibration import FILE, Calibration, fit, likeness
from clearcap.sampling.selection import said_twice


def test_the_curve_has_the_greatest_likelihood_and_finds_what_words_were_drawn_from() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0.01, 0.999, 40_000)
    odds = np.log(p / (1 - p))
    right = (random.uniform(size=p.size) < 1 / (1 + np.exp(-(0.4 * odds - 0.5)))).astype(float)
    slope, offset = fit(p, right)
    assert (slope, offset) == pytest.approx((0.4, -0.5), abs=0.03)
    missing = right - 1 / (1 + np.exp(-(slope * odds + offset)))
    assert missing.mean() == pytest.approx(0, abs=1e-9)  # the likelihood's slopes are zero at its top
    assert (missing * odds).mean() == pytest.approx(0, abs=1e-9)
    assert calibration_error(p, right) > 0.1
    assert calibration_error(Calibration(slope, offset).right(p), right) < 0.02
    with pytest.raises(InputError, match="all words are right"):
        fit(p, np.ones_like(p))


def test_calibration_error_by_hand() -> None:
    sure, right = np.array([0.95, 0.91, 0.55, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    assert calibration_error(sure, right) == pytest.approx((2 * abs(0.93 - 0.5) + 0.45 + 0.1) / 4)


def test_ranks_share_their_places() -> None:
    assert rank_correlation([1.0, 2.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(
        0.9486832980505138
    )  # SciPy's spearmanr
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) == 0


def test_a_captions_confidence_is_that_of_its_words_of_content() -> None:
    calibration = Calibration(1.0, 0.0, alike=0.6, width=0.05)
    words, sure = calibration(["a", "Dog", "runs"], [0.9, 0.5, 0.7], 0.0, {"a"})
    assert words == pytest.approx((0.9, 0.5, 0.7), abs=1e-4)
    assert sure == pytest.approx(0.6, abs=1e-4)
    assert calibration(["a"], [0.9], 0.0, {"a"})[1] == pytest.approx(0.9, abs=1e-4)
    assert calibration(["dog"], [0.8], 0.6)[1] == pytest.approx(0.4)
    assert calibration(["dog"], [0.8], 0.9)[1] < 0.01
    assert Calibration()([], [], 0.5) == ((), 0.0)


def test_likeness_is_one_where_all_tokens_are_the_same_and_none_where_they_cancel() -> None:
    random = np.random.default_rng(0)
    same = np.broadcast_to(random.normal(size=(1, 2, 1, 4)), (1, 2, 9, 4))
    half = random.normal(size=(1, 2, 4, 4))
    against = np.concatenate((half, -half), 2)
    assert likeness([(same, same)]) == pytest.approx([1.0])
    assert likeness([(same, against)]) == pytest.approx([0.0])
    assert likeness([(same[:, 0], same[:, 0]), (against[:, 0], against[:, 0])]) == pytest.approx([0.5])


def test_words_are_right_if_a_reference_has_them_and_repetitions_count_unless_one_does() -> None:
    captions = [Captioned("1", "a dog", 0.5, (), (("a", 0.9), ("Dog", 0.3))), Captioned("2", "a cat", 0.2)]
    references = {"1": ["The dog.", "Dogs run"], "2": ["a cat"]}
    sure, right = words_of(captions, references)
    assert sure.tolist() == [0.9, 0.3]
    assert right.tolist() == [0, 1]
    assert trust(captions[1:], references, {"2": 1.0}) is None
    small = {"a", "and", "with"}
    assert said_twice(["a", "dog", "with", "a", "dog", "and", "dogs"], small) == {"dog"}
    assert said_twice(["a", "dog", "with", "a", "dog"], ()) == set()
    said = {"1": "A dog with a dog.", "2": "a man and a man", "3": "a man with a dog"}
    people = {"1": ["a dog", "a bird"], "2": ["A man, and a man!", "a man"], "3": ["a dog and a dog"]}
    assert repeating(said, people, small) == 1 / 3


def test_a_calibration_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / FILE
    Calibration(0.4, -0.5, 0.6, 0.02).save(file)
    assert Calibration.load(file) == Calibration(0.4, -0.5, 0.6, 0.02)
    whole = json.loads(file.read_text())
    for wrong in ({**whole, "more": 1}, {**whole, "width": 0}, {**whole, "slope": "1"}, {"slope": 1.0}, []):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=FILE):
            Calibration.load(file)


def test_what_is_no_photo_is_hardly_believed() -> None:
    photo = Path(clearcap.__file__).parent / "bench" / "photo.jpg"
    pipeline = CaptionPipeline.from_pretrained()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    y, x = np.mgrid[:300, :300]
    board = ((x // 20 + y // 20) % 2 * 255).astype(np.uint8)
    black, white = (np.full((300, 300, 3), value, np.uint8) for value in (0, 255))
    for nothing in (noise, board, black, white):
        assert pipeline(nothing).confidence < 0.2
    found = pipeline(photo)
    assert found.confidence > 0.3
    assert CaptionPipeline.from_pretrained(backend="torch")(photo).confidence == pytest.approx(
        found.confidence, abs=1e-3
    )
