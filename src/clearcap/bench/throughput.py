"""Photos a second, and what each stage on the way from a file to its words could do alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clearcap.captioner.generating import CaptionRequest
from clearcap.data.ahead import ahead
from clearcap.data.images import open_image, to_square
from clearcap.data.threads import set_threads, threads
from clearcap.pipeline import CaptionPipeline, InputError
from clearcap.pipeline.pipeline import cpu_batch

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Stage:
    """One stage, with nothing else beside it.

    Attributes:
        name: of the stage.
        rate: photos a second.
        cpu: milliseconds of processor time a photo, of all threads; other jobs hardly change it.
        share: of the processor time of all stages; on a GPU, of their time.
    """

    name: str
    rate: float
    cpu: float
    share: float


@dataclass(frozen=True)
class Throughput:
    """All stages, and all of them together.

    Attributes:
        stages: in the order of a photo's way.
        rate: photos a second from files to captions.
        cpu: milliseconds of processor time a photo.
        cores: that torch uses.
        batch_size: photos at once.
        at_once: batches at the same time.
    """

    stages: tuple[Stage, ...]
    rate: float
    cpu: float
    cores: int
    batch_size: int
    at_once: int

    @property
    def of_slowest(self) -> float:
        """Share of what the slowest stage could do alone."""
        return self.rate / min(stage.rate for stage in self.stages)

    @property
    def of_sum(self) -> float:
        """Share of what stages that take turns on the same cores could do: each photo needs all of them."""
        return self.rate * sum(1 / stage.rate for stage in self.stages)

    @property
    def in_stages(self) -> float:
        """Share of the processor time that the stages take alone: the rest is what joining them costs."""
        return sum(stage.cpu for stage in self.stages) / self.cpu if self.cpu else 0.0

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        shares = {"of_slowest": self.of_slowest, "of_sum": self.of_sum, "in_stages": self.in_stages}
        return asdict(self) | shares


def measure_throughput(
    pipeline: CaptionPipeline,
    photos: Sequence[str | Path],
    *,
    batch_size: int | None = None,
    workers: int = 4,
    at_once: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    **how: Any,
) -> Throughput:
    """Time each stage alone, and then all together.

    Args:
        pipeline: what captions.
        photos: files, all of which can be read.
        batch_size: photos at once; default is what ``clearcap caption --out`` takes on a CPU, on a GPU 16.
        workers: threads that decode photos.
        at_once: batches at the same time; default is one a core on a CPU, as ``clearcap caption --out`` does.
        progress: told (stages done, stages, the stage at work).
        how: sampling settings.

    Raises:
        InputError: a photo cannot be read, or there are none.
    """
    if not photos:
        raise InputError("no photos to time; name some")
    network, cores = pipeline.captioner, threads()
    by_cpu = str(pipeline.device) == "cpu"
    lanes = at_once or (cores if by_cpu else 1)
    sampling = pipeline.sampling(**how)
    batch_size = batch_size or (cpu_batch(sampling.candidates) if by_cpu else 16)
    sampler = network.sampler(sampling)
    names = ("decoding photos", "encoding", "denoising", "decoding words")
    measured: list[tuple[float, float]] = []

    def stage(function: Callable[[Item], Made], items: Sequence[Item], lanes: int) -> list[Made]:
        progress(len(measured), len(names) + 1, names[len(measured)])
        list(_spread(pipeline, function, items[:1], lanes))  # what is made once
        began, spent = time.perf_counter(), time.process_time()
        made = list(_spread(pipeline, function, items, lanes))
        measured.append((time.perf_counter() - began, time.process_time() - spent))
        return made

    def requests(count: int) -> list[CaptionRequest]:
        candidates = range(sampling.candidates)
        return [CaptionRequest(i, j, sampling.length_of(j)) for i in range(count) for j in candidates]

    def words(latent: Any) -> list[int]:
        count = len(latent) // sampling.candidates
        found = pipeline.decode(network.read(latent, requests(count), photos=count))
        return [
            pipeline.choose([one.text for one in photo], [one.confidence for one in photo], sampling)
            for photo in found
        ]

    size = pipeline.image_size
    squares = stage(lambda photo: to_square(open_image(photo, at_least=size), size), photos, workers)
    batches = [squares[start : start + batch_size] for start in range(0, len(squares), batch_size)]

    def encode(batch: list[np.ndarray]) -> Any:
        with network.inference():
            return network.encode_image(pipeline.pixels(batch))

    encoded = stage(encode, batches, lanes)
    latents = stage(
        lambda image: network.sample(image, requests(len(image)), sampler=sampler), encoded, lanes
    )
    stage(words, latents, lanes)
    progress(len(names), len(names) + 1, "all together")
    began, spent = time.perf_counter(), time.process_time()
    for result in pipeline.stream(photos, batch_size=batch_size, workers=workers, at_once=lanes, **how):
        if isinstance(result, InputError):
            raise result
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    total = sum(spent if by_cpu else wall for wall, spent in measured)
    stages = tuple(
        Stage(name, len(photos) / wall, spent / len(photos) * 1e3, (spent if by_cpu else wall) / total)
        for name, (wall, spent) in zip(names, measured, strict=True)
    )
    return Throughput(stages, len(photos) / seconds, cpu / len(photos) * 1e3, cores, batch_size, lanes)


def _spread(
    pipeline: CaptionPipeline, function: Callable[[Item], Made], items: Sequence[Item], lanes: int
) -> Iterator[Made]:
    """A stage over all items, by threads that share those that compute, until the device is done."""
    cores = threads()

    def in_thread(item: Item) -> Made:
        set_threads(max(1, cores // lanes))
        return function(item)

    try:
        yield from ahead(in_thread, items, threads=lanes, depth=lanes + 1)
        if str(pipeline.device).startswith("cuda"):
            import torch

            torch.cuda.synchronize()
    finally:
        set_threads(cores)
