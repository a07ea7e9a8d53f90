"""Captioners timed side by side: in every round each one writes once in turn, at every setting."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper_size import matrix_rate

Write = Callable[[Tensor, int, int], Tensor]
"""(photos [photos, 3, side, side] in 0..1, tokens, candidates) -> token ids [photos * candidates, tokens]."""


@dataclass(frozen=True)
class System:
    """A captioner with its way of decoding.

    Attributes:
        name: what tables call it.
        family: the network, whatever the way of decoding ("bundled", "paper", "BLIP-base", "GIT-base").
        write: photos to captions of exactly so many tokens.
        at_batches: whether it is measured at several batches too.
        at_candidates: whether it is measured at several candidates too.
    """

    name: str
    family: str
    write: Write
    at_batches: bool = False
    at_candidates: bool = False


@dataclass(frozen=True, order=True)
class Setting:
    """What is asked of a system: tokens of a caption, photos at once, captions of each photo."""

    tokens: int
    batch: int = 1
    candidates: int = 1


@dataclass(frozen=True)
class Timing:
    """A system at a setting.

    Attributes:
        system, family, setting: what was measured.
        rounds: seconds per photo, one of each round.
        gflop: floating-point operations per photo, in 1e9, as torch counts matrix products and convolutions.
        peaks: the machine's rate of a large matrix product beside each round, in GFLOP/s.
    """

    system: str
    family: str
    setting: Setting
    rounds: tuple[float, ...]
    gflop: float
    peaks: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Median seconds per photo."""
        return statistics.median(self.rounds)

    @property
    def share(self) -> float:
        """Median share of the measured matrix-product rate."""
        return statistics.median(
            self.gflop / seconds / peak for seconds, peak in zip(self.rounds, self.peaks, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, seconds and operations per photo."""
        return {
            "system": self.system,
            "family": self.family,
            "tokens": self.setting.tokens,
            "batch": self.setting.batch,
            "candidates": self.setting.candidates,
            "seconds": self.seconds,
            "rounds": list(self.rounds),
            "photos_per_second": 1 / self.seconds,
            "gflop": self.gflop,
            "gflops": self.gflop / self.seconds,
            "share": self.share,
        }


def plan(
    systems: Sequence[System],
    lengths: Sequence[int],
    batches: Sequence[int],
    candidates: Sequence[int],
    words: int,
) -> list[tuple[System, Setting]]:
    """Who is measured at what: neighbours in the list are of the same setting, as far as can be.

    Args:
        systems: all of them.
        lengths: tokens of one caption of one photo.
        batches: photos at once, at ``words`` tokens, of systems that are measured ``at_batches``.
        candidates: captions of one photo, at ``words`` tokens, of those measured ``at_candidates``.
        words: tokens at which batches and candidates are measured.
    """
    wanted = [(Setting(tokens), system) for tokens in lengths for system in systems]
    wanted += [(Setting(words, batch=n), s) for n in batches for s in systems if s.at_batches]
    wanted += [(Setting(words, candidates=n), s) for n in candidates for s in systems if s.at_candidates]
    once = {(setting, system.name): system for setting, system in wanted}
    return [(system, setting) for (setting, _), system in sorted(once.items(), key=lambda item: item[0][0])]


def measure(
    systems: Sequence[System],
    lengths: Sequence[int],
    *,
    batches: Sequence[int] = (1, 8),
    candidates: Sequence[int] = (1, 3, 10),
    words: int = 16,
    rounds: int = 3,
    side: int = 224,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    at_least: float = 0.2,
    matrix: int = 2048,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Timing]:
    """Time every system at every length, and some at batches and candidates.

    A first pass, not timed, warms up and counts operations.

    Args:
        systems: on ``device``, in ``dtype``.
        lengths, batches, candidates, words: as for ``plan``.
        rounds: timed passes over everything.
        side: pixels of a photo's side.
        at_least: seconds that a short run is repeated for in each round; its median counts.
        matrix: side of the matrix product whose rate is measured beside each round.
        progress: called with runs done, runs in all and what runs next.
    """
    entries = plan(systems, lengths, batches, candidates, words)
    most = max(setting.batch for _, setting in entries)
    generator = torch.Generator().manual_seed(0)
    photos = torch.rand(most, 3, side, side, generator=generator).to(device, dtype)

    def writing(system: System, setting: Setting) -> Callable[[], Tensor]:
        return lambda: system.write(photos[: setting.batch], setting.tokens, setting.candidates)

    total = len(entries) * (rounds + 1)
    operations = []
    for done, (system, setting) in enumerate(entries):
        progress(done, total, f"counting {system.name}")
        operations.append(operations_of(writing(system, setting)) / setting.batch)
    times: list[list[float]] = [[] for _ in entries]
    peaks = []
    for number in range(rounds):
        peaks.append(matrix_rate(dtype, matrix, device))
        for place, (system, setting) in enumerate(entries):
            progress(len(entries) * (number + 1) + place, total, f"round {number + 1}: {system.name}")
            times[place].append(_seconds(writing(system, setting), at_least) / setting.batch)
    progress(total, total, "done")
    return [
        Timing(system.name, system.family, setting, tuple(took), flop / 1e9, tuple(peaks))
        for (system, setting), took, flop in zip(entries, times, operations, strict=True)
    ]


def operations_of(run: Callable[[], object]) -> float:
    """Floating-point operations of one run: two for each multiplication and addition of a matrix product.

    The parameters of what runs must be frozen: torch's counter cannot hook trainable ones in inference mode.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))

    # torch's own table has the fused attention of GPUs only
    table = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=table) as counter:
        run()
    return float(counter.get_total_flops())


def find(timings: Iterable[Timing], system: str, setting: Setting) -> Timing | None:
    """The timing of a system at a setting, if it was measured."""
    return next((t for t in timings if (t.system, t.setting) == (system, setting)), None)


def _seconds(run: Callable[[], Tensor], at_least: float) -> float:
    """Median of as many runs as fit in ``at_least`` seconds, one at least."""
    times: list[float] = []
    while sum(times) < at_least:
        start = time.perf_counter()
        run().cpu()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return statistics.median(times)
