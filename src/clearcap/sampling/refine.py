"""Back&Refine: half way down, keep the words the model is sure of and restart the others from noise (LaDiC, 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float

from clearcap.arrays import Array, Latents, cast, namespace
from clearcap.diffusion.noise import Noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import Step
from clearcap.sampling.solvers import Randn, Solver

Confidence = Callable[[Array], Array]
"""Predicted x0 [batch, length, dim] -> probability of each position's most probable token [batch, length]."""


@dataclass(frozen=True)
class BackAndRefine:
    """When and how far Back&Refine goes back.

    Attributes:
        rounds: times it does so before the last run; 0 never.
        time: noise level, as a share of T, at which words are judged (the paper's t / T).
        share: share of the positions that is kept (the paper's L/2), of those that are not known beforehand.
        threshold: keep the positions at least this probable instead; 0 keeps by ``share``.
        level: noise level, as a share of T, that the kept words are put at: 0 keeps them clean, as in the paper.
    """

    rounds: int = 1
    time: float = 0.5
    share: float = 0.5
    threshold: float = 0.0
    level: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise InputError(f"refine rounds={self.rounds} must not be negative")
        for name in ("time", "share", "threshold", "level"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"refine {name}={getattr(self, name)} must lie between 0 and 1")


def refined(
    solve: Solver,
    confidence: Confidence,
    back: BackAndRefine,
    start: float = 1.0,
    known: Bool[Array, "batch length"] | None = None,
) -> Solver:
    """The solver with Back&Refine, to be called like the solver itself.

    Each round runs ``solve`` from the noisiest level to ``back.time``, keeps the most confident positions of the
    prediction, and puts pure noise at the others; the last run then starts at the noisiest level again. Kept
    words are noised and predicted like all others from there on, so they may still change (appendix A.5).

    Args:
        solve: any solver.
        confidence: judges predictions.
        back: when and how far.
        start: standard deviation of pure noise.
        known: positions known beforehand, which the share does not count.
    """

    def solve_with_back(denoise: Step, x: Array, times: Sequence[int], noise: Noise, randn: Randn) -> Array:
        down = turning_point(times, noise.steps, back.time)
        level = round(back.level * (noise.steps - 1))
        for _ in range(back.rounds):
            x0 = solve(denoise, x, [*times[:down], 0], noise, randn)
            keep = keep_mask(confidence(x0), known, share=back.share, threshold=back.threshold)
            x = restart(x0, keep, noise, level, start * randn(), randn)
        return solve(denoise, x, times, noise, randn)

    return solve_with_back if back.rounds else solve


def turning_point(times: Sequence[int], train_steps: int, share: float) -> int:
    """How many calls are made before going back: up to the one whose level is nearest to ``share`` of T."""
    calls = range(len(times) - 1)
    return min(calls, key=lambda i: abs(times[i] - share * (train_steps - 1))) + 1


def keep_mask(
    confidence: Float[Array, "batch length"],
    known: Bool[Array, "batch length"] | None = None,
    *,
    share: float,
    threshold: float = 0.0,
) -> Bool[Array, "batch length"]:
    """The positions that stay: the given share of the most confident, or all at or above the threshold.

    Known positions always stay, and the share counts the others alone: the model is surest of known positions, so
    they would otherwise use up the whole share.
    """
    xp = namespace(confidence)
    if known is None:
        known = xp.zeros_like(confidence, dtype=xp.bool)
    if threshold > 0:
        return known | (confidence >= threshold)
    rank = xp.argsort(xp.argsort(xp.where(known, 1.0, -confidence), stable=True))
    count = xp.round(share * cast((~known).sum(-1), xp.float64))
    return known | (rank < count[..., None])


def restart(
    x0: Latents, keep: Bool[Array, "batch length"], noise: Noise, level: int, fresh: Latents, randn: Randn
) -> Latents:
    """The latent to restart from: kept words noised to ``level`` (0: clean, nothing drawn), ``fresh`` elsewhere."""
    if level > 0:
        x0 = noise.add(x0, level, randn())
    return namespace(x0).where(keep[..., None], x0, fresh)


def ladic_back_and_refine(
    solve: Solver,
    denoise: Step,
    x: Latents,
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    confidence: Confidence,
) -> Latents:
    """Back&Refine as the authors' code has it, behind a flag that is off there.

    At the first level below 60% of T the third of the positions that is least confident restarts from noise,
    the others are noised to the next level, and the run goes on from the second-noisiest level: 5 steps become 7.
    Draws: first the restarted positions' noise, then the kept ones'.

    Arguments as for the solver (``renoise`` in their code).

    Raises:
        InputError: no level lies between 30% and 60% of T, so it would never fire.
    """
    low, high = 0.3 * noise.steps, 0.6 * noise.steps
    down = next((i for i, t in enumerate(times) if low < t < high), None)
    if down is None:
        raise InputError(f"no level of {list(times)} lies between {low:.0f} and {high:.0f}; take more steps")
    x0 = solve(denoise, x, [*times[: down + 1], 0], noise, randn)
    sure = confidence(x0)
    rank = namespace(sure).argsort(namespace(sure).argsort(sure, stable=True))
    x = restart(x0, rank >= sure.shape[-1] // 3, noise, times[down + 1], randn(), randn)
    return solve(denoise, x, times[1:], noise, randn)
