"""Photos that wait are captioned together, first come, first served."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clearcap.errors import InputError
from clearcap.service.refusals import Refused, busy


@dataclass(eq=False)
class Job:
    """One photo to caption.

    Attributes:
        key: jobs of equal keys may share a forward pass.
        run: does jobs of one key together: their results in their order.
        photo: squashed, uint8 [size, size, 3].
        deadline: of ``time.monotonic``; a job that waits longer is refused.
        rows: captions that it samples.
        payload: what else ``run`` needs.
        done: its result, or the error.
    """

    key: Hashable
    run: Callable[[Sequence[Job]], Sequence[Any]]
    photo: np.ndarray
    deadline: float
    rows: int = 1
    payload: Any = None
    done: Future[Any] = field(default_factory=Future)


class Batcher:
    """A bounded queue, and the one thread that empties it in batches.

    Args:
        batch_size: photos of a batch.
        queue: photos that may wait.
        max_rows: sampled captions of a batch (a batch of one photo may have more).
        wait: seconds that a batch waits for photos that are still being read.
        arriving: how many requests are being read now.
        observe: told of each batch: its photos and its seconds.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        queue: int,
        max_rows: int = 128,
        wait: float = 0.005,
        arriving: Callable[[], int] = lambda: 0,
        observe: Callable[[int, float], None] = lambda photos, seconds: None,
    ) -> None:
        self._batch_size, self._limit, self._max_rows, self._wait = batch_size, queue, max_rows, wait
        self._arriving, self._observe = arriving, observe
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_a_photo = 0.1  # until the first batch
        self._thread = threading.Thread(target=self._loop, name="captioning", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Photos in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether photos are still taken and captioned."""
        return self._thread.is_alive() and not self._stopping

    def retry_after(self) -> int:
        """Seconds in which the queue empties, as far as is known."""
        return max(1, math.ceil(len(self._waiting) * self._seconds_a_photo))

    def check_room(self, photos: int = 1) -> None:
        """Raise Refused (429) where so many photos do not fit the queue now, 503 once it is closed."""
        if self._stopping:
            raise Refused(503, "the service is stopping; try again", {"Retry-After": "1"})
        if len(self._waiting) + photos > self._limit:
            raise busy(f"{len(self._waiting)} photos wait already, of {self._limit}", self.retry_after())

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of a request's photos, or none. Raises Refused where they do not fit."""
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Take nothing more, finish what was taken, and return when it is done."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while batch := self._next_batch():
            began = time.perf_counter()
            outcomes = _outcomes(batch)
            seconds = time.perf_counter() - began
            self._seconds_a_photo += 0.2 * (seconds / len(batch) - self._seconds_a_photo)
            self._observe(
                len(batch), seconds
            )  # before the answers go, so that whoever has one finds it counted
            for job, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    job.done.set_exception(outcome)
                else:
                    job.done.set_result(outcome)

    def _next_batch(self) -> list[Job]:
        """The next photos of one key; none once the queue is closed and empty."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._stopping:
                        return []
                    self._changed.wait()
                until = time.monotonic() + self._wait
                while (
                    len(self._waiting) < self._batch_size
                    and self._arriving()
                    and not self._stopping
                    and (left := until - time.monotonic()) > 0
                ):
                    self._changed.wait(left)
                if batch := self._take():
                    return batch

    def _take(self) -> list[Job]:
        """The first in the queue and those behind it that may share its batch; late and cancelled ones leave."""
        batch: list[Job] = []
        passed: deque[Job] = deque()
        rows, now = 0, time.monotonic()
        while self._waiting and len(batch) < self._batch_size:
            job = self._waiting.popleft()
            if now > job.deadline:
                if job.done.set_running_or_notify_cancel():
                    job.done.set_exception(
                        Refused(503, "the photo waited too long; try again", {"Retry-After": "1"})
                    )
            elif batch and (job.key != batch[0].key or rows + job.rows > self._max_rows):
                passed.append(job)
            elif job.done.set_running_or_notify_cancel():
                batch.append(job)
                rows += job.rows
        self._waiting.extendleft(reversed(passed))
        return batch


def _outcomes(batch: Sequence[Job]) -> list[Any]:
    """Results or faults of a batch; failing for a reason that is not the request's, each photo is tried by itself."""
    try:
        return list(batch[0].run(batch))
    except InputError as fault:  # of the settings, which are the same for all
        return [fault] * len(batch)
    except Exception as fault:
        return [fault] if len(batch) == 1 else [outcome for job in batch for outcome in _outcomes([job])]
