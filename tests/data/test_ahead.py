"""Batches made ahead of the steps that use them."""

from __future__ import annotations

import threading

import pytest

from clearcap.data.ahead import ahead

AHEAD = 4


def test_batches_come_in_order_from_threads_of_their_own() -> None:
    made: dict[int, str] = {}

    def batch_at(step: int) -> int:
        made[step] = threading.current_thread().name
        return step * step

    assert list(ahead(batch_at, range(3, 20), threads=AHEAD, depth=AHEAD + 1)) == [
        step * step for step in range(3, 20)
    ]
    assert sorted(made) == list(range(3, 20))
    assert all(name.startswith("ahead") for name in made.values())


def test_no_more_batches_are_made_than_fit_ahead() -> None:
    made: list[int] = []
    batches = ahead(lambda step: made.append(step), range(100), threads=AHEAD, depth=AHEAD + 1)
    for step in range(5):
        next(batches)
        assert len(made) <= step + 2 + AHEAD
    batches.close()
    assert len(made) <= 6 + AHEAD


def test_a_batch_that_fails_stops_the_run_at_its_step() -> None:
    def batch_at(step: int) -> int:
        if step == 2:
            raise ValueError("photo 2")
        return step

    batches = ahead(batch_at, range(10), threads=AHEAD, depth=AHEAD + 1)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="photo 2"):
        next(batches)
