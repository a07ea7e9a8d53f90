"""Solvers: each turns pure noise into a caption latent with calls of one denoise function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.diffusion import Noise
from clearcap.errors import InputError
from clearcap.guidance import Denoise


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


def ignore(step: Step) -> None:
    """The default watcher."""


def renoise(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """Predict x0, draw fresh noise down to the next level (the authors' code; consistency sampling's step).

    Args:
        denoise: predicts x0.
        x: start, pure noise.
        times: falling noise levels, the last one 0 (never re-noised to).
        noise: corruption.
        randn: draws fresh noise.
        time_offset: added to the time that the network is told (Chen et al. 2022's asymmetric intervals).
        watch: sees every step.
    """
    x0 = torch.zeros_like(x)
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            x = noise.add(x0, _level(x, s), randn())
    return x0


def ddim(
    denoise: Denoise,
    x: Float[Tensor, "batch length dim"],
    times: Sequence[int],
    noise: Noise,
    randn: Randn,
    *,
    eta: float = 0.0,
    time_offset: int = 0,
    watch: Watch = ignore,
) -> Float[Tensor, "batch length dim"]:
    """DDIM (Song et al. 2020, eq. 12); ``eta`` 0 is deterministic, 1 has DDPM's variance.

    Arguments as for ``renoise``.
    """
    x0 = torch.zeros_like(x)
    for i, (t, s) in enumerate(pairwise(times)):
        x0 = denoise(x, x0, _level(x, min(t + time_offset, noise.steps - 1)))
        watch(Step(i, t, x, x0))
        if s > 0:
            eps = noise.epsilon(x0, x, _level(x, t))
            (a_t, s_t), (a_s, s_s) = noise.scales(_level(x, t)), noise.scales(_level(x, s))
            fresh = eta * (s_s / s_t) * (1 - (a_t / a_s) ** 2).clamp_min(0).sqrt()
            x = a_s * x0 + (s_s**2 - (noise.factor * fresh) ** 2).clamp_min(0).sqrt() * eps
            if eta > 0:
                x = x + noise.factor * fresh * randn()
    return x0


SOLVERS: dict[str, Callable[..., Tensor]] = {"renoise": renoise, "ddim": ddim}


def solver(name: str) -> Callable[..., Tensor]:
    """The named solver.

    Raises:
        InputError: the name is unknown.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


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
