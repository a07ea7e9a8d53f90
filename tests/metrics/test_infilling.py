"""Infilling accuracy on hand-counted cases."""

from __future__ import annotations

import pytest

from clearcap.errors import InputError
from clearcap.metrics.infilling import accuracy


def test_counts_words_and_whole_captions() -> None:
    found = accuracy([["dog", "red"], ["CAT"], ["a", "b", "c"]], [["dog", "blue"], ["cat"], ["a", "x", "c"]])
    assert found.words == 4 / 6
    assert found.captions == 1 / 3
    assert found.per_caption == [1 / 2, 1, 2 / 3]


@pytest.mark.parametrize(
    ("answers", "truths"), [([], []), ([["a"]], []), ([["a"]], [["a", "b"]]), ([[]], [[]])]
)
def test_gaps_and_answers_must_correspond(answers, truths) -> None:
    with pytest.raises(InputError, match="answer"):
        accuracy(answers, truths)
