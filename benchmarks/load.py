"""Clients that ask all at once, or at a pace; bounded in number and in time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.served import Answer, Client, Service


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds of each answer with a caption.
        asked: requests sent.
        statuses: how many answers had each status; 0 is no answer.
        wrong: answers with another caption than expected.
        silent: refusals with 429 or 503 that do not say when to come back.
        megabytes: the most memory that the service's processes had together.
        lock: of the threads that count.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    asked: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    silent: int = 0
    megabytes: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def rate(self) -> float:
        """Captions a second."""
        return len(self.latencies) / self.seconds

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return self.asked - sum(count for status, count in self.statuses.items() if status)

    def add(self, other: Load) -> None:
        """Count another stretch of the same load."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.asked += other.asked
        self.statuses += other.statuses
        self.wrong += other.wrong
        self.silent += other.silent
        self.megabytes = max(self.megabytes, other.megabytes)

    def percentile(self, share: float) -> float:
        """Milliseconds within which a share of the captions came."""
        return 1000 * float(np.percentile(self.latencies, 100 * share)) if self.latencies else float("nan")

    def note(self, answer: Answer, expected: str, seconds: float) -> None:
        """Count an answer."""
        with self.lock:
            self.statuses[answer.status] += 1
            self.silent += answer.status in (429, 503) and "retry-after" not in answer.headers
            if answer.status == 200:
                self.latencies.append(seconds)
                self.wrong += answer.json["captions"][0]["caption"] != expected


def ask(client: Client, photo: Path, expected: str, load: Load) -> None:
    """One photo in a form."""
    data = photo.read_bytes()
    with load.lock:
        load.asked += 1
    began = time.perf_counter()
    try:
        answer = client.post_form("/v1/captions", [data])
    except OSError:
        answer = Answer(0, {}, b"")
    load.note(answer, expected, time.perf_counter() - began)


def closed_loop(
    service: Service, photos: Sequence[Path], expected: Mapping[Path, str], *, clients: int, seconds: float
) -> Load:
    """Clients that each ask for the next photo when they have the last one's caption, for so many seconds."""
    load = Load()
    until = time.monotonic() + seconds

    def run(number: int) -> None:
        client = service.client()
        turn = number
        while time.monotonic() < until:
            photo = photos[turn % len(photos)]
            ask(client, photo, expected[photo], load)
            turn += clients
        client.close()

    began = time.perf_counter()
    with Watched(service, load), ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    load.seconds = time.perf_counter() - began
    return load


def open_loop(
    service: Service,
    photos: Sequence[Path],
    expected: Mapping[Path, str],
    *,
    rate: float,
    seconds: float,
    most: int = 10_000,
) -> Load:
    """A new client at every tick, whether the others have their captions or not."""
    load = Load()
    count = min(most, int(rate * seconds))

    def run(number: int) -> None:
        client = service.client()
        photo = photos[number % len(photos)]
        ask(client, photo, expected[photo], load)
        client.close()

    began = time.perf_counter()
    with Watched(service, load), ThreadPoolExecutor(256) as pool:
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            pool.submit(run, number)
    load.seconds = time.perf_counter() - began
    return load


class Watched:
    """Notes the most memory that a service takes."""

    def __init__(self, service: Service, load: Load) -> None:
        """While the ``with`` block runs."""
        self._service, self._load, self._done = service, load, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self._load.megabytes = max(self._load.megabytes, self._service.megabytes())

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._done.set()
        self._thread.join()
