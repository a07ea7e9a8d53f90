"""Solvers: each turns pure noise into a caption latent with calls of one denoise function.

Every formula is written in a(t) and s(t) of x_t = a x0 + s eps, so it holds for any noise factor: the factor
scales s and with it all fresh noise, and leaves the ratios of s, and so the means, as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.diffusion.noise import Noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import Denoise


@dataclass(frozen=True)
class Step:
    """What a solver shows after each call of the denoiser.

    Attributes:
        index: 0 for the first call.
        t: noise level the call was made at.
        x_t: latent before the call.
        x0: predicted clean latent.
    """

    index: int
    t: int
    x_t: Float[Tensor, "batch length dim"]
    x0: Float[Tensor, "batch length dim"]


Watch = Callable[[Step], None]
Randn = Callable[[], Tensor]
"""Draws one standard normal latent for the whole batch."""
Solver = Callable[..., Tensor]
"""Any of the solvers below: all take what ``renoise`` takes."""


def ignore(step: Step) -> None:
    """The default watcher."""


def renoise(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    x0: Float[Tensor, "batch length dim"] | None = None,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """Predict x0, draw fresh noise down to the next level (LaDiC's code; consistency models, Song et al. 2023, alg. 1).

    Args:
        denoise: predicts x0.
        x: start, pure noise.
        times: falling noise levels, the last one 0 (never re-noised to).
        noise: corruption.
        randn: draws fresh noise.
        x0: prediction that the first call is conditioned on; default none (zeros).
        time_offset: added to the time that the network is told (Chen et al. 2022's asymmetric intervals).
        watch: sees every step.

    Returns:
        The last call's prediction.
    """
    x0 = torch.zeros_like(x) if x0 is None else x0
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            x = noise.add(x0, _level(x, s), randn())
    return x0


def ddpm(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    x0: Float[Tensor, "batch length dim"] | None = None,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """Ancestral sampling: draw from q(x_s | x_t, x0), the posterior of the forward process (Ho et al. 2020, eq. 6-7).

    Arguments as for ``renoise``.
    """
    x0 = torch.zeros_like(x) if x0 is None else x0
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            (a_t, s_t), (a_s, s_s) = noise.scales(_level(x, t)), noise.scales(_level(x, s))
            added = noise.factor**2 * (1 - (a_t / a_s) ** 2)  # variance that the way from s to t adds
            mean = (a_t / a_s) * (s_s / s_t) ** 2 * x + a_s * added / s_t**2 * x0
            x = mean + added.sqrt() * (s_s / s_t) * randn()
    return x0


def ddim(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    eta: float = 0.0,
    x0: Float[Tensor, "batch length dim"] | None = None,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """DDIM (Song et al. 2020, eq. 12); ``eta`` 0 is deterministic, 1 has DDPM's variance.

    Arguments as for ``renoise``.
    """
    x0 = torch.zeros_like(x) if x0 is None else x0
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            eps = noise.epsilon(x0, x, _level(x, t))
            (a_t, s_t), (a_s, s_s) = noise.scales(_level(x, t)), noise.scales(_level(x, s))
            fresh = eta * noise.factor * (s_s / s_t) * (1 - (a_t / a_s) ** 2).clamp_min(0).sqrt()
            x = a_s * x0 + (s_s**2 - fresh**2).clamp_min(0).sqrt() * eps
            if eta > 0:
                x = x + fresh * randn()
    return x0


def dpm_solver(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    x0: Float[Tensor, "batch length dim"] | None = None,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """DPM-Solver++(2M): second order in lambda = log(a / s), deterministic (Lu et al. 2022b, algorithm 2).

    Arguments as for ``renoise``; ``randn`` is not used.
    """
    x0 = torch.zeros_like(x) if x0 is None else x0
    earlier: tuple[Tensor, Tensor] | None = None  # the previous prediction and the step in lambda after it
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            (a_t, s_t), (a_s, s_s) = noise.scales(_level(x, t)), noise.scales(_level(x, s))
            h = (a_s / s_s).log() - (a_t / s_t).log()
            d = x0 if earlier is None else x0 + h / (2 * earlier[1]) * (x0 - earlier[0])
            x = (s_s / s_t) * x - a_s * torch.expm1(-h) * d
            earlier = (x0, h)
    return x0


def plain(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    x0: Float[Tensor, "batch length dim"] | None = None,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """Feed each prediction back as it is, with no noise (CLIP-Diffusion-LM's code, which draws captions in 5 calls).

    Arguments as for ``renoise``; ``randn`` is not used.
    """
    x0 = torch.zeros_like(x) if x0 is None else x0
    for i, (t, _) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        x = x0
    return x0


SOLVERS: dict[str, Solver] = {
    "renoise": renoise,
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm-solver": dpm_solver,
    "plain": plain,
}


def solver(name: str, eta: float = 0.0) -> Solver:
    """The named solver, with DDIM's ``eta`` bound.

    Raises:
        InputError: the name is unknown, or ``eta`` is given to a solver that has none.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}; choose one of {', '.join(SOLVERS)}")
    if name == "ddim":
        return partial(ddim, eta=eta)
    if eta:
        raise InputError(
            f"eta={eta} is DDIM's share of fresh noise and {name} has none; pass eta=0 or solver=ddim"
        )
    return SOLVERS[name]


class Settling:
    """A denoiser that stops working on captions whose decoded tokens have stopped changing.

    A caption that showed the same tokens in ``patience`` + 1 predictions in a row keeps its prediction for good:
    the network is called on the others only, and not at all once none is left. Wraps the denoiser, so every
    solver has it; randomness is drawn as before, so nobody's caption depends on who left. Rising noise levels
    begin a new round (Back&Refine), with everyone back.

    Args:
        build: the denoiser of some rows of the batch (``None``: of all).
        decode: predictions -> token logits.
        patience: repetitions that settle a caption, at least 1.
    """

    def __init__(
        self,
        build: Callable[[Tensor | None], Denoise],
        decode: Callable[[Tensor], Tensor],
        patience: int = 1,
    ) -> None:
        if patience < 1:
            raise InputError(f"patience={patience} must be at least 1 repetition of the same tokens")
        self._build = build
        self._decode = decode
        self._patience = patience
        self._last_t = -1

    def __call__(self, x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        now = int(t[0])
        first = now >= self._last_t
        self._last_t = now
        if first:
            self._denoise = self._build(None)
            self._active = torch.arange(len(x_t), device=x_t.device)
            self._same = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
            self._x0 = torch.zeros_like(x_t)
            self._ids = torch.full(x_t.shape[:2], -1, device=x_t.device)
        rows = self._active
        if not len(rows):
            return self._x0
        x0 = self._denoise(x_t[rows], x_self[rows], t[rows])
        ids = self._decode(x0).argmax(-1)
        repeated = (ids == self._ids[rows]).all(-1)
        self._same[rows] = torch.where(repeated, self._same[rows] + 1, 0)
        self._ids[rows] = ids
        self._x0 = self._x0.index_copy(0, rows, x0)
        moving = self._same[rows] < self._patience
        if not bool(moving.all()):
            self._active = rows[moving]
            self._denoise = self._build(self._active)
        return self._x0


Callback = Callable[[int, int, dict[str, Tensor]], dict[str, Tensor]]
"""(step, time, {"latents": predicted x0, "noisy": x_t}) -> what to change: {} or {"latents": another x0}."""


def called_back(denoise: Denoise, callback: Callback) -> Denoise:
    """Shows every prediction to ``callback``, which may change it (diffusers' ``callback_on_step_end``).

    Raises:
        InputError: the callback returns something else than a dictionary, or latents of another shape.
    """
    steps = itertools.count()

    def denoise_and_call(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x_t, x_self, t)
        changed = callback(next(steps), int(t[0]), {"latents": x0, "noisy": x_t})
        if not isinstance(changed, dict):
            raise InputError("callback_on_step_end returned no dictionary; return {} to change nothing")
        latents = changed.get("latents", x0)
        if latents.shape != x0.shape:
            raise InputError(
                f"callback_on_step_end returned latents of shape {tuple(latents.shape)}, not {tuple(x0.shape)}"
            )
        return latents

    return denoise_and_call


def row_generators(
    seed: int, names: Sequence[int], device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per caption, so that a caption does not depend on what else is in its batch."""
    return [torch.Generator(device).manual_seed((seed * 1_000_003 + name) % (1 << 63)) for name in names]


def randn_rows(generators: Sequence[torch.Generator], length: int, dim: int) -> Randn:
    """Draws a batch whose row i comes from generator i alone."""

    def randn() -> Tensor:
        return torch.stack([torch.randn(length, dim, generator=g, device=g.device) for g in generators])

    return randn


def _level(x: Tensor, t: int) -> Tensor:
    return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)
