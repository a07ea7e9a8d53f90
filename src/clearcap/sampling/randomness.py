"""Noise of captions, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clearcap.sampling.solvers import Randn


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
