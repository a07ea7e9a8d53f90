"""Learning rates as pure functions of the step, and random generators as pure functions of seed and step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from clearcap.config import TrainConfig
from clearcap.errors import InputError


def cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": cosine,
}


def learning_rate(config: TrainConfig, step: int, peak: float) -> float:
    """The rate used at ``step`` (0 first): linear warm-up, then the decay to ``config.end`` * peak at the last step.

    Decay "log" falls by equal factors, so fastest at first (CLIP-Diffusion-LM, Table 2); it needs ``end`` > 0.
    """
    warmup, decay, end = config.warmup, config.decay, config.end
    progress = max(step - warmup, 0) / max(config.steps - warmup, 1)
    if decay == "log" and end > 0:
        return peak * (end**progress if step >= warmup else (step + 1) / warmup)
    if decay not in DECAYS:
        raise InputError(f"unknown learning-rate decay {decay!r}; choose one of {', '.join(DECAYS)} or log")
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (end + (1 - end) * DECAYS[decay](progress))


def learning_rate_by_progress(progress: float, *, peak: float, warmup: float) -> float:
    """The rate of a run that the clock ends: linear warm-up, then half a cosine down to zero.

    Args:
        progress: the share of the run that is over.
        peak: the highest rate.
        warmup: the share of the run during which the rate rises.
    """
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * cosine((progress - warmup) / (1 - warmup))


def planned_rate(progress: float, step_seconds: float, seconds_left: float) -> float:
    """Share of the run per step with which it ends when the time is over.

    Ten steps at least are left to anneal in, however late it is.
    """
    return (1 - progress) / max(10.0, seconds_left / step_seconds)


def generator_at(seed: int, *place: int, device: str = "cpu") -> torch.Generator:
    """A generator that depends on the seed and the place in the run alone, so that resuming needs no saved state."""
    mixed = seed & 0xFFFFFFFF
    for number in place:  # splitmix64: neighbouring steps get unrelated streams
        mixed = (mixed + 0x9E3779B97F4A7C15 * (number + 1)) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed >> 1)
