"""Wrappers of the denoiser, each adding one behaviour: guidance, known latents, clamping, memory, callbacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from clearcap.arrays import Array, Context, cast, join_contexts, namespace
from clearcap.denoiser.interface import Denoiser
from clearcap.diffusion.noise import Noise, infilled
from clearcap.errors import InputError

Denoise = Callable[[Array, Array, Array], Array]
"""(x_t, x_self, t [batch]) -> predicted x0."""
Step = Callable[[Array, int], Array]
"""(x_t, t) -> predicted x0: what solvers call."""
Callback = Callable[[int, int, dict[str, Array]], dict[str, Array]]
"""(step, time, {"latents": predicted x0, "noisy": x_t}) -> what to change: {} or {"latents": another x0}."""


@dataclass(frozen=True)
class FixedLatents:
    """Latents known before a caption is sampled: given words, or what follows a caption of a given length.

    They are clean, as LaDiC re-inserts fixed words.

    Attributes:
        latent: known latents; anything elsewhere.
        mask: where they are known.
        ids: their tokens; anything elsewhere. None where no prediction is clamped.
    """

    latent: Float[Array, "captions length dim"]
    mask: Bool[Array, "captions length"]
    ids: Int[Array, "captions length"] | None = None

    def wrap(self, denoise: Denoise, rows: Int[Array, " rows"] | None = None) -> Denoise:
        """The denoiser of some rows of the batch (``None``: of all), which fills in the other positions only."""
        if rows is None:
            return infilled(denoise, self.latent, self.mask)
        return infilled(denoise, self.latent[rows], self.mask[rows])


def conditioned(denoiser: Denoiser, noise: Noise, context: Context) -> Denoise:
    """The denoiser with its photos bound; latents stay in float32, whatever the network computes in."""
    dtype = context[0][0].dtype

    def denoise(x_t: Array, x_self: Array, t: Array) -> Array:
        output = denoiser(cast(x_t, dtype), cast(x_self, dtype), t, context)
        return noise.x0(cast(output, x_t.dtype), x_t, t)

    return denoise


def guide(conditional: Array, unconditional: Array, scale: float) -> Array:
    """(1 + scale) * conditional - scale * unconditional (Ho & Salimans 2021; LaDiC, eq. 5)."""
    return conditional + scale * (conditional - unconditional)


def guided(denoiser: Denoiser, noise: Noise, context: Context, scale: float) -> Denoise:
    """Classifier-free guidance: the photo's and the null branch run as one batch.

    Args:
        denoiser: the network.
        noise: its parameterisation.
        context: of the photos.
        scale: guidance scale w; 0 costs no second branch.
    """
    if scale == 0:
        return conditioned(denoiser, noise, context)
    photos = context[0][0].shape[0]
    twice = conditioned(denoiser, noise, join_contexts(context, denoiser.null_context(), photos=photos))

    def denoise(x_t: Array, x_self: Array, t: Array) -> Array:
        xp = namespace(x_t)
        both = twice(*(xp.concat((one, one)) for one in (x_t, x_self, t)))
        return guide(both[: len(x_t)], both[len(x_t) :], scale)

    return denoise


def between(inside: Denoise, outside: Denoise, low: int, high: int) -> Denoise:
    """One denoiser at noise levels ``low <= t <= high``, another elsewhere.

    With guidance inside only, elsewhere one branch runs (Kynkäänniemi et al. 2024). All captions of a call are at
    the same level.
    """

    def denoise(x_t: Array, x_self: Array, t: Array) -> Array:
        return (inside if low <= int(t[0]) <= high else outside)(x_t, x_self, t)

    return denoise


def without_self_conditioning(denoise: Denoise) -> Denoise:
    """The same denoiser, never shown its previous prediction."""

    def forgetful(x_t: Array, x_self: Array, t: Array) -> Array:
        return denoise(x_t, namespace(x_self).zeros_like(x_self), t)

    return forgetful


def shifted(denoise: Denoise, offset: int, last: int) -> Denoise:
    """The denoiser told a time later by ``offset``, at most ``last`` (Chen et al. 2022's asymmetric intervals)."""

    def told_later(x_t: Array, x_self: Array, t: Array) -> Array:
        return denoise(x_t, x_self, namespace(t).clip(t + offset, None, last))

    return told_later


def clamped(denoise: Denoise, nearest: Callable[[Array], Array], last: int) -> Denoise:
    """Moves every prediction but the last to the words nearest to it: the clamping trick (Li et al. 2022, section 4.2).

    Predicted from much noise, x0 is a mean of all captions that may be, and the words nearest to it come from
    several of them. Shown to the next call as words, they can be told apart and made into one sentence.

    Args:
        denoise: any denoiser.
        nearest: latents of the words nearest to a prediction.
        last: noise level of the last call, whose prediction stays as it is.
    """

    def denoise_and_clamp(x_t: Array, x_self: Array, t: Array) -> Array:
        x0 = denoise(x_t, x_self, t)
        return x0 if int(t[0]) <= last else nearest(x0)

    return denoise_and_clamp


def called_back(denoise: Denoise, callback: Callback) -> Denoise:
    """Shows every prediction to ``callback``, which may change it (diffusers' ``callback_on_step_end``).

    Raises:
        InputError: the callback returns something else than a dictionary, or latents of another shape.
    """
    steps = itertools.count()

    def denoise_and_call(x_t: Array, x_self: Array, t: Array) -> Array:
        x0 = denoise(x_t, x_self, t)
        changed = callback(next(steps), int(t[0]), {"latents": x0, "noisy": x_t})
        if not isinstance(changed, dict):
            raise InputError("callback_on_step_end returned no dictionary; return {} to change nothing")
        latents: Array = changed.get("latents", x0)
        if latents.shape != x0.shape:
            raise InputError(
                f"callback_on_step_end returned latents of shape {tuple(latents.shape)}, not {tuple(x0.shape)}"
            )
        return latents

    return denoise_and_call


def self_conditioned(denoise: Denoise, x0: Array | None = None) -> Step:
    """What solvers call: the denoiser shown its own previous prediction at every step (Chen et al. 2022).

    Args:
        denoise: any denoiser.
        x0: prediction that the first call is shown; default none (zeros).
    """
    last = [x0] if x0 is not None else []

    def step(x_t: Array, t: int) -> Array:
        xp = namespace(x_t)
        x_self = last.pop() if last else xp.zeros_like(x_t)
        level = xp.full((len(x_t),), t, dtype=xp.int64, device=x_t.device)
        last.append(denoise(x_t, x_self, level))
        return last[0]

    return step
