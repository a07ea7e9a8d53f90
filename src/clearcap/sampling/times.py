"""The noise levels that a sampler visits, noisiest first."""

from __future__ import annotations

import math
from collections.abc import Callable

from clearcap.errors import InputError


def uniform_times(train_steps: int, steps: int) -> list[int]:
    """``steps`` times from the noisiest, evenly spaced, towards (not including) 0, then the end at 0."""
    check_steps(train_steps, steps)
    return [round((train_steps - 1) * (1 - i / steps)) for i in range(steps)] + [0]


def quadratic_times(train_steps: int, steps: int) -> list[int]:
    """As ``uniform_times`` but denser near 0, where words are settled (DDIM, Song et al. 2020, app. D.2)."""
    check_steps(train_steps, steps)
    times = [round((train_steps - 1) * (1 - i / steps) ** 2) for i in range(steps)] + [0]
    return _strictly_falling(times)


def trailing_times(train_steps: int, steps: int) -> list[int]:
    """Every T/steps-th level counted down from T (Lin et al. 2023, table 2): the first is T-1, the last T/steps - 1."""
    check_steps(train_steps, steps)
    times = [round(train_steps * (1 - i / steps)) - 1 for i in range(steps)] + [0]
    return _strictly_falling(times)


def strided_times(train_steps: int, stride: int) -> list[int]:
    """LaDiC's own code: T-1, T-1-stride, ... while above 0; "30 steps" is stride 30 and makes 34 calls."""
    if not 0 < stride < train_steps:
        raise InputError(f"stride={stride} must lie between 1 and {train_steps - 1}")
    return [*range(train_steps - 1, 0, -stride), 0]


def log_snr_times(train_steps: int, steps: int) -> list[int]:
    """T-1, then levels at which log SNR of the cosine schedule, where s / a = tan(pi t / 2T), rises evenly.

    They are the middles of equal parts of the way from a noise-to-signal ratio of 20 to one of 2, at factor 1: above
    it a caption latent is as good as pure noise; below it every word can be read off, and calls change nothing.
    """
    check_steps(train_steps, steps)
    ratios = [20 * 0.1 ** ((i + 0.5) / (steps - 1)) for i in range(steps - 1)]
    times = [train_steps - 1, *(round(train_steps * 2 / math.pi * math.atan(r)) for r in ratios)]
    for i in range(1, len(times)):
        times[i] = min(times[i], times[i - 1] - 1)
    return _strictly_falling([*times, 0])


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": uniform_times,
    "quadratic": quadratic_times,
    "trailing": trailing_times,
    "stride": strided_times,
    "log-snr": log_snr_times,
}


def times(spacing: str, train_steps: int, steps: int) -> list[int]:
    """The times a sampler visits, noisiest first, ending with 0 (``steps`` is the stride for "stride").

    Raises:
        InputError: the spacing is unknown or the number of steps is out of range.
    """
    if spacing not in SPACINGS:
        raise InputError(f"unknown step spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")
    return SPACINGS[spacing](train_steps, steps)


def check_steps(train_steps: int, steps: int) -> None:
    if not 1 <= steps < train_steps:
        raise InputError(
            f"steps={steps} does not fit the {train_steps} noise levels the model was trained with; "
            f"pass 1 <= steps < {train_steps}"
        )


def _strictly_falling(times: list[int]) -> list[int]:
    for i in range(len(times) - 2, -1, -1):
        times[i] = max(times[i], times[i + 1] + 1)
    return times
