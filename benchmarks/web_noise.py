"""Noise as ``web/src/philox.js`` draws it, for comparing captions with the page's.

The same function is to be the package's own noise; once it is, that one takes this one's place here.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.sampling.solvers import Randn

WORD = 1 << 64


def normal(seed: int, stream: int, draw: int, count: int) -> Float[np.ndarray, " {count}"]:
    """Standard normal numbers that depend on the arguments alone: Philox4x64-10, then Box and Muller's transform."""
    key = np.array([seed % WORD, stream % WORD], np.uint64)
    counter = np.array([0, 0, 0, draw], np.uint64)
    bits = np.random.Philox(key=key, counter=counter).random_raw((count + 1) // 2)
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + 0.5) / 2**32))
    angle = (bits & np.uint64(2**32 - 1)) * (2 * math.pi / 2**32)
    pairs = radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def same_noise(seed: int, captions: int, length: int, dim: int) -> Randn:
    """Draws the noise of stream 0 for every caption of a batch, as the page has it for every photo."""
    draws = itertools.count()

    def randn() -> Tensor:
        drawn = torch.from_numpy(normal(seed, 0, next(draws), length * dim))
        return drawn.view(1, length, dim).expand(captions, -1, -1)

    return randn
