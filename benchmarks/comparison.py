"""The whole comparison: ours and the baselines built, timed and reported."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.baselines import baselines, blip_base, git_base
from benchmarks.evaluations import Quality
from benchmarks.paper_size import DTYPES
from benchmarks.ratios import Ratio, noisiest, ratios
from benchmarks.systems import VARIANTS, captioner_of_size, systems_of
from benchmarks.timing import System, Timing, measure
from clearcap import __version__
from clearcap.errors import InputError

SIDE = 224
NOTES = (
    "All weights are random, at real size; time does not depend on them. Photos are 224 x 224 for everyone (GIT's own "
    "size; BLIP's captioner was published at 384, which would cost it more).",
    "Timed from pixels to token ids: reading photos and joining words are left out for everyone.",
    "Tokens are those of the caption: a baseline writes exactly so many (its end token is forbidden, and its key-value "
    "cache is on), ours has two positions more ([CLS] and [SEP]).",
    "A baseline's several candidates are sampled; ours are drawn, not yet chosen among. GIT of transformers encodes "
    "the photo once for each beam and candidate; BLIP and ours encode it once.",
    "'paper' is ladic-base; 'bundled' has the sizes of the model that ships. 2 steps without guidance is the way of a "
    "distilled captioner.",
)


@dataclass(frozen=True)
class Comparison:
    """What one run of the comparison found.

    Attributes:
        machine: device, threads, dtype, versions and the measured matrix-product rate in GFLOP/s.
        timings: every system at every setting.
        ratios: the statements about speed.
        qualities: finished evaluations, where some were given.
        words: tokens at which batches and candidates were measured.
    """

    machine: dict[str, Any]
    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]
    qualities: tuple[Quality, ...]
    words: int

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "machine": self.machine,
            "words": self.words,
            "timings": [timing.to_json() for timing in self.timings],
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "evaluations": [quality.to_json() for quality in self.qualities],
            "notes": list(NOTES),
        }


def compare(
    *,
    sizes: Sequence[str] = ("bundled", "paper"),
    lengths: Sequence[int] = (8, 16, 32, 48),
    batches: Sequence[int] = (1, 8),
    candidates: Sequence[int] = (1, 3, 10),
    words: int = 16,
    rounds: int = 3,
    dtype: str = "float32",
    qualities: Sequence[Quality] = (),
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Comparison:
    """Build, time and judge; on a GPU if there is one.

    Args:
        sizes: of ours: "bundled", "paper".
        lengths: tokens of a caption, at batch 1.
        batches, candidates: photos at once and captions of a photo, at ``words`` tokens.
        words: see there.
        rounds: timed passes.
        dtype: of every system's weights and activations, "float32" or "bfloat16".
        qualities: evaluations to show beside.
        progress: called with runs done, runs in all and what runs next.

    Raises:
        InputError: a size or dtype that does not exist, or a number that is too small.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    for name, values, least in (
        ("lengths", [*lengths, words], 2),
        ("batches", batches, 1),
        ("candidates", candidates, 1),
        ("repeats", [rounds], 1),
    ):
        if not values or min(values) < least:
            raise InputError(f"{name} {','.join(map(str, values))} must be at least {least}")
    if max(*lengths, words) > 480:
        raise InputError(f"lengths {','.join(map(str, lengths))} must be at most 480, for BLIP's positions")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest = max(*lengths, words)
    systems = list(_systems(sizes, longest, device, DTYPES[dtype], progress))
    timings = measure(
        systems,
        lengths,
        batches=batches,
        candidates=candidates,
        words=words,
        rounds=rounds,
        side=SIDE,
        dtype=DTYPES[dtype],
        device=device,
        matrix=8192 if device.type == "cuda" else 2048,  # a GPU needs more to be busy
        progress=progress,
    )
    return summarise(timings, dtype=dtype, device=device, words=words, qualities=qualities)


def summarise(
    timings: Sequence[Timing],
    *,
    dtype: str,
    device: torch.device,
    words: int,
    qualities: Sequence[Quality] = (),
) -> Comparison:
    """Timings with what they were measured on and what they say."""
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "rounds": len(timings[0].rounds),
        "matrix_gflops": statistics.median(timings[0].peaks),
        "noise": noisiest(timings),
        "versions": {
            "clearcap": __version__,
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
    }
    return Comparison(machine, tuple(timings), tuple(ratios(timings, words)), tuple(qualities), words)


def _systems(
    sizes: Sequence[str],
    longest: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[int, int, str], None],
) -> Iterator[System]:
    for size in sizes:
        progress(0, 1, f"building {size}")
        captioner: Any = captioner_of_size(size, longest)
        yield from systems_of(size, captioner.to(device, dtype), VARIANTS[size])
    for name, build in (("BLIP-base", blip_base), ("GIT-base", git_base)):
        progress(0, 1, f"building {name}")
        yield from baselines(name, build(SIDE).to(device, dtype))
