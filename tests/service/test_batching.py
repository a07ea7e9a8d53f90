"""The queue and its one thread, without a captioner."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from clearcap.errors import InputError
from clearcap.service.batching import Batcher, Job
from clearcap.service.refusals import Refused

PHOTO = np.zeros((2, 2, 3), np.uint8)


class Captioner:
    """Notes its batches, and waits at its gate before the first."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        self.gate.wait(10)
        self.batches.append([job.payload for job in jobs])
        if "broken" in self.batches[-1]:
            raise RuntimeError("broken")
        return [f"caption of {job.payload}" for job in jobs]

    def jobs(self, *payloads: Any, key: str = "same", rows: int = 1, seconds: float = 60) -> list[Job]:
        deadline = time.monotonic() + seconds
        return [Job(key, self.run, PHOTO, deadline, rows, payload) for payload in payloads]


def behind_one(captioner: Captioner, batcher: Batcher) -> Job:
    """A first job that holds the thread at the gate."""
    first = captioner.jobs("first", key="first")
    batcher.submit(first)
    while batcher.waiting:
        time.sleep(0.001)
    return first[0]


def test_those_that_wait_are_captioned_together_by_settings_in_order() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=3, queue=20)
    behind_one(captioner, batcher)
    plain = captioner.jobs(1, 2, 3, 4)
    other = captioner.jobs("a", "b", key="other")
    for request in ([plain[0]], [other[0]], plain[1:], [other[1]]):
        batcher.submit(request)
    captioner.gate.set()
    assert [job.done.result(10) for job in plain] == [f"caption of {n}" for n in (1, 2, 3, 4)]
    batcher.close()
    assert captioner.batches == [["first"], [1, 2, 3], ["a", "b"], [4]]


def test_rows_bound_a_batch_of_many_candidates() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=8, queue=20, max_rows=20)
    behind_one(captioner, batcher)
    batcher.submit(captioner.jobs(1, 2, 3, rows=10))
    batcher.submit(captioner.jobs(4, rows=100))
    captioner.gate.set()
    batcher.close()
    assert captioner.batches == [["first"], [1, 2], [3], [4]]


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_back() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=4, queue=3)
    behind_one(captioner, batcher)
    batcher.submit(captioner.jobs(1, 2))
    with pytest.raises(Refused, match="2 photos wait already, of 3") as refusal:
        batcher.submit(captioner.jobs(3, 4))
    assert refusal.value.status == 429
    assert int(refusal.value.headers["Retry-After"]) >= 1
    batcher.submit(captioner.jobs(5))
    captioner.gate.set()
    batcher.close()
    assert captioner.batches == [["first"], [1, 2, 5]]


def test_late_and_cancelled_photos_are_not_captioned() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=4, queue=9)
    behind_one(captioner, batcher)
    (late,), (gone,), (good,) = captioner.jobs(1, seconds=-1), captioner.jobs(2), captioner.jobs(3)
    for job in (late, gone, good):
        batcher.submit([job])
    assert gone.done.cancel()
    captioner.gate.set()
    assert good.done.result(10) == "caption of 3"
    with pytest.raises(Refused, match="waited too long") as refusal:
        late.done.result(10)
    assert refusal.value.status == 503
    batcher.close()
    assert captioner.batches == [["first"], [3]]


def test_closing_finishes_what_was_taken_and_takes_nothing_more() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=2, queue=9)
    first = behind_one(captioner, batcher)
    jobs = captioner.jobs(1, 2, 3, 4, 5)
    batcher.submit(jobs)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.alive:
        time.sleep(0.001)
    with pytest.raises(Refused, match="is stopping") as refusal:
        batcher.submit(captioner.jobs(6))
    assert refusal.value.status == 503
    captioner.gate.set()
    closing.join(10)
    assert [job.done.result(0) for job in (first, *jobs)][-1] == "caption of 5"


def test_a_failure_is_that_photos_alone() -> None:
    captioner, batcher = Captioner(), Batcher(batch_size=4, queue=9)
    behind_one(captioner, batcher)
    good, broken, last = captioner.jobs("good", "broken", "last")
    batcher.submit([good, broken, last])
    captioner.gate.set()
    assert good.done.result(10) == "caption of good"
    assert last.done.result(10) == "caption of last"
    with pytest.raises(RuntimeError, match="broken"):
        broken.done.result(10)
    batcher.close()


def test_settings_that_cannot_be_are_the_error_of_all_that_have_them() -> None:
    def refuse(jobs: Sequence[Job]) -> list[Any]:
        raise InputError("not these")

    batcher = Batcher(batch_size=4, queue=9)
    jobs = [Job("same", refuse, PHOTO, time.monotonic() + 60) for _ in range(3)]
    batcher.submit(jobs)
    for job in jobs:
        with pytest.raises(InputError, match="not these"):
            job.done.result(10)
    batcher.close()


def test_a_batch_waits_for_requests_that_are_being_read_but_not_for_nobody() -> None:
    reading = [1]
    captioner = Captioner()
    captioner.gate.set()
    batcher = Batcher(batch_size=2, queue=9, wait=5.0, arriving=lambda: reading[0])
    batcher.submit(captioner.jobs(1))
    time.sleep(0.05)
    assert not captioner.batches
    batcher.submit(captioner.jobs(2))
    reading[0] = 0
    (alone,) = captioner.jobs(3)
    began = time.monotonic()
    batcher.submit([alone])
    alone.done.result(10)
    assert time.monotonic() - began < 4
    batcher.close()
    assert captioner.batches == [[1, 2], [3]]
