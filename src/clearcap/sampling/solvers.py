"""Solvers, which turn pure noise into a caption latent with calls of one function, and the times of the calls.

Every formula is written in a(t) and s(t) of x_t = a x0 + s eps, so it holds for any noise factor: the factor
scales s and with it all fresh noise, and leaves the ratios of s, and so the means, as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol, runtime_checkable

from clearcap import registry
from clearcap.arrays import Array, Latents, namespace
from clearcap.diffusion.noise import Noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import Step

Randn = Callable[[], Array]
"""Draws one standard normal latent for the whole batch."""


@runtime_checkable
class Solver(Protocol):
    """Any of the solvers below, and what the registry holds for a solver."""

    def __call__(self, denoise: Step, x: Array, times: Sequence[int], noise: Noise, randn: Randn) -> Array:
        """The clean latent [batch, length, dim] of the last call.

        Args:
            denoise: predicts x0 from x_t and t.
            x: start, pure noise [batch, length, dim].
            times: falling noise levels, the last one 0, at which nothing is called.
            noise: corruption.
            randn: draws fresh noise.
        """


def renoise(denoise: Step, x: Latents, times: Sequence[int], noise: Noise, randn: Randn) -> Latents:
    """Predict x0, add fresh noise of the next level (LaDiC's code; consistency models, Song et al. 2023, alg. 1)."""
    x0 = x
    for t, s in pairwise(times):
        x0 = denoise(x, t)
        if s > 0:
            x = noise.add(x0, s, randn())
    return x0


def ddpm(denoise: Step, x: Latents, times: Sequence[int], noise: Noise, randn: Randn) -> Latents:
    """Ancestral sampling: x_s is drawn from q(x_s | x_t, x0), the forward posterior (Ho et al. 2020, eq. 6-7)."""
    x0 = x
    for t, s in pairwise(times):
        x0 = denoise(x, t)
        if s > 0:
            (a_t, s_t), (a_s, s_s) = noise.scales(t), noise.scales(s)
            added = noise.factor**2 * (1 - (a_t / a_s) ** 2)  # variance that the way from s to t adds
            mean = (a_t / a_s) * (s_s / s_t) ** 2 * x + a_s * added / s_t**2 * x0
            x = mean + namespace(added).sqrt(added) * (s_s / s_t) * randn()
    return x0


def ddim(
    denoise: Step, x: Latents, times: Sequence[int], noise: Noise, randn: Randn, *, eta: float = 0.0
) -> Latents:
    """DDIM (Song et al. 2020, eq. 12); ``eta`` 0 is deterministic, 1 has DDPM's variance."""
    x0 = x
    for t, s in pairwise(times):
        x0 = denoise(x, t)
        if s > 0:
            eps = noise.epsilon(x0, x, t)
            (a_t, s_t), (a_s, s_s) = noise.scales(t), noise.scales(s)
            xp = namespace(a_t)
            fresh = eta * noise.factor * (s_s / s_t) * xp.sqrt(xp.clip(1 - (a_t / a_s) ** 2, 0, None))
            x = a_s * x0 + xp.sqrt(xp.clip(s_s**2 - fresh**2, 0, None)) * eps
            if eta > 0:
                x = x + fresh * randn()
    return x0


def dpm_solver(denoise: Step, x: Latents, times: Sequence[int], noise: Noise, randn: Randn) -> Latents:
    """DPM-Solver++(2M): second order in lambda = log(a / s), deterministic (Lu et al. 2022b, algorithm 2)."""
    x0 = x
    earlier: tuple[Array, Array] | None = None  # the previous prediction and the step in lambda after it
    for t, s in pairwise(times):
        x0 = denoise(x, t)
        if s > 0:
            (a_t, s_t), (a_s, s_s) = noise.scales(t), noise.scales(s)
            xp = namespace(a_t)
            h = xp.log(a_s / s_s) - xp.log(a_t / s_t)
            d = x0 if earlier is None else x0 + h / (2 * earlier[1]) * (x0 - earlier[0])
            x = (s_s / s_t) * x - a_s * xp.expm1(-h) * d
            earlier = (x0, h)
    return x0


def plain(denoise: Step, x: Latents, times: Sequence[int], noise: Noise, randn: Randn) -> Latents:
    """Feed each prediction back as it is, with no noise (CLIP-Diffusion-LM's code, which draws captions in 5 calls)."""
    for t, _ in pairwise(times):
        x = denoise(x, t)
    return x


def solver(name: str, eta: float = 0.0) -> Solver:
    """The named solver, with DDIM's ``eta`` bound.

    Raises:
        InputError: the name is unknown, or ``eta`` is given to a solver that has none.
    """
    solve: Solver = registry.find("solver", name)
    if not eta:
        return solve
    if name != "ddim":
        raise InputError(
            f"eta={eta} is DDIM's share of fresh noise and {name} has none; pass eta=0 or solver=ddim"
        )
    return partial(ddim, eta=eta)


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
    """LaDiC's own code: T-1, T-1-stride, ... while above 0; "30 steps" is stride 30 and makes 34 calls.

    Raises:
        InputError: the stride does not lie between 1 and T - 1.
    """
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


def times_of(spacing: str, train_steps: int, steps: int) -> list[int]:
    """The times a sampler visits, noisiest first, ending with 0 (``steps`` is the stride for "stride").

    Raises:
        InputError: the spacing is unknown or the number of steps is out of range.
    """
    times: list[int] = registry.find("spacing", spacing)(train_steps, steps)
    return times


def check_steps(train_steps: int, steps: int) -> None:
    """Refuse numbers of steps that the noise has no levels for. Raises InputError."""
    if not 1 <= steps < train_steps:
        raise InputError(
            f"steps={steps} does not fit the {train_steps} noise levels the model was trained with; "
            f"pass 1 <= steps < {train_steps}"
        )


def _strictly_falling(times: list[int]) -> list[int]:
    for i in range(len(times) - 2, -1, -1):
        times[i] = max(times[i], times[i + 1] + 1)
    return times
