"""``Sampler``: everything that decides how captions are sampled, put together from settings once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clearcap.arrays import Array, Context, namespace, softmax
from clearcap.config import SamplingConfig
from clearcap.denoiser.interface import Denoiser
from clearcap.diffusion.noise import Noise
from clearcap.sampling.guidance import (
    Callback,
    Denoise,
    FixedLatents,
    between,
    called_back,
    clamped,
    conditioned,
    guided,
    self_conditioned,
    shifted,
    without_self_conditioning,
)
from clearcap.sampling.solvers import Randn, Solver, solver, times_of


@dataclass(frozen=True)
class Sampler:
    """How captions are sampled.

    Attributes:
        solve: the solver, without Back&Refine.
        times: noise levels it visits, the last one 0.
        noise: corruption.
        start: standard deviation of the pure noise a caption starts from.
        guidance: guidance scale.
        guided_levels: lowest and highest noise level that is guided.
        self_condition: whether each prediction is shown to the next call.
        time_offset: added to the time that the network is told.
        clamp: whether a prediction is moved to the words nearest to it before the next call.
        once: whether the words nearest to a prediction are each said once.
        early_exit: repetitions of its tokens after which a caption is done; 0 runs every step.
        refine: Back&Refine's rounds, time, share, threshold and level (``BackAndRefine``); None without it.
    """

    solve: Solver
    times: tuple[int, ...]
    noise: Noise
    start: float
    guidance: float
    guided_levels: tuple[int, int]
    self_condition: bool
    time_offset: int
    clamp: bool
    once: bool
    early_exit: int
    refine: tuple[int, float, float, float, float] | None

    def denoise(self, denoiser: Denoiser, context: Context, *, guidance: bool = True) -> Denoise:
        """The denoiser with its photos bound, guided and self-conditioned as the settings say."""
        last, (low, high) = self.noise.steps - 1, self.guided_levels
        denoise = guided(denoiser, self.noise, context, self.guidance if guidance else 0.0)
        if guidance and self.guidance and (low > 0 or high < last):
            denoise = between(denoise, conditioned(denoiser, self.noise, context), low, high)
        return denoise if self.self_condition else without_self_conditioning(denoise)

    def run(
        self,
        build: Callable[[Array | None], Denoise],
        decode: Callable[[Array], Array],
        randn: Randn,
        fixed: FixedLatents | None = None,
        callback: Callback | None = None,
        nearest: Callable[[Array], Array] = lambda x0: x0,
    ) -> Array:
        """Sample clean latents [captions, length, dim].

        Args:
            build: the denoiser of some rows of the batch (``None``: of all).
            decode: predictions -> token logits.
            randn: draws standard normal latents.
            fixed: latents known beforehand.
            callback: sees every prediction, and may change it.
            nearest: predictions -> latents of the words nearest to them, where predictions are clamped.
        """

        def of_rows(rows: Array | None) -> Denoise:
            return fixed.wrap(build(rows), rows) if fixed else build(rows)

        denoise, solve = of_rows(None), self.solve
        if self.early_exit:
            from clearcap.sampling.early_exit import EarlyExit

            denoise = EarlyExit(of_rows, decode, self.early_exit)
        if self.time_offset:
            denoise = shifted(denoise, self.time_offset, self.noise.steps - 1)
        if callback:
            denoise = called_back(denoise, callback)
        if self.clamp:
            denoise = clamped(denoise, nearest, self.times[-2])
        if self.refine:
            from clearcap.sampling.refine import BackAndRefine, refined

            known = fixed.mask if fixed else None
            solve = refined(
                solve,
                lambda x0: namespace(x0).amax(softmax(decode(x0)), axis=-1),
                BackAndRefine(*self.refine),
                self.start,
                known,
            )
        return solve(self_conditioned(denoise), self.start * randn(), self.times, self.noise, randn)


def build_sampler(how: SamplingConfig, noise: Noise) -> Sampler:
    """The sampler of settings.

    Args:
        how: the settings.
        noise: corruption with the settings' noise factor.

    Raises:
        InputError: more steps than the noise has levels, or a name that is not registered.
    """
    last = noise.steps - 1
    return Sampler(
        solve=solver(how.solver, how.eta),
        times=tuple(times_of(how.spacing, noise.steps, how.steps)),
        noise=noise,
        start=how.start,
        guidance=how.guidance,
        guided_levels=(
            0 if how.guidance_low <= 0 else round(how.guidance_low * last),
            last if how.guidance_high >= 1 else round(how.guidance_high * last),
        ),
        self_condition=how.self_condition,
        time_offset=how.time_offset,
        clamp=how.clamp,
        once=how.once,
        early_exit=how.early_exit,
        refine=(
            (how.refine, how.refine_time, how.refine_share, how.refine_threshold, how.refine_level)
            if how.refine
            else None
        ),
    )
