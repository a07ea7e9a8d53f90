"""How long one photo takes with a trained model, warm and in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Latency:
    """Milliseconds per photo over repeated runs."""

    name: str
    median: float
    least: float
    greatest: float


def measure(name: str, run: Callable[[], object], repeats: int, warmup: int = 3) -> Latency:
    """Time ``run`` after warm-up runs that are not counted."""
    for _ in range(warmup):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return Latency(name, statistics.median(times), min(times), max(times))


def sample_photo() -> Path:
    """A public-domain photo that ships."""
    return Path(__file__).with_name("photo.jpg")


def caption_latency(
    model: str, photo: Path, steps: tuple[int, ...] = (1, 2, 5, 10), repeats: int = 30, cold: int = 3
) -> list[Latency]:
    """Warm captions at several step counts (file to caption), and whole ``clearcap caption`` processes.

    Args:
        model: folder, hub name or "default".
        photo: a photo file.
        steps: calls of the denoiser.
        repeats: counted runs of each.
        cold: counted runs of a fresh process.
    """
    from clearcap.pipeline import CaptionPipeline

    pipeline = CaptionPipeline.from_pretrained(model, backend="fast")
    rows = [
        measure(f"warm, {n} steps", lambda n=n: pipeline(str(photo), steps=n), repeats)  # type: ignore[misc]
        for n in steps
    ]
    command = [sys.executable, "-m", "clearcap", "caption", str(photo), "--model", model]

    def process() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return [*rows, measure("cold process", process, cold, warmup=1)]
