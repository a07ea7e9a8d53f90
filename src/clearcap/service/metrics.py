"""What Prometheus may know of the service; with several workers, of all of them together."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from clearcap.service.settings import METRICS_FOLDER

SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The service's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """All at zero."""
        self._registry = CollectorRegistry()
        mine = self._registry
        self.requests = Counter("clearcap_requests", "Requests answered", ["route", "status"], registry=mine)
        self.seconds = Histogram(
            "clearcap_request_seconds", "From head to answer", ["route"], buckets=SECONDS, registry=mine
        )
        self.photos = Counter("clearcap_photos", "Photos captioned or filled", registry=mine)
        self.batches = Histogram(
            "clearcap_batch_photos", "Photos of a forward pass", buckets=(1, 2, 4, 8, 16, 32), registry=mine
        )
        self.forward = Counter("clearcap_batch_seconds", "Time in forward passes", registry=mine)
        self.waiting = Gauge(
            "clearcap_waiting_photos", "Photos in the queue", multiprocess_mode="livesum", registry=mine
        )
        self.open = Gauge(
            "clearcap_open_requests", "Requests not answered yet", multiprocess_mode="livesum", registry=mine
        )

    def observe_batch(self, photos: int, seconds: float) -> None:
        """A forward pass is over, after so many seconds."""
        self.photos.inc(photos)
        self.batches.observe(photos)
        self.forward.inc(seconds)

    def text(self) -> bytes:
        """All values in Prometheus's text format."""
        folder = os.environ.get(METRICS_FOLDER)
        if not folder:
            return generate_latest(self._registry)
        for file in Path(folder).glob("gauge_live*_*.db"):  # a dead worker has no queue
            if not _runs(int(file.stem.rpartition("_")[2])):
                file.unlink(missing_ok=True)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
