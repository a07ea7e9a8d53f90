"""Noise of captions: numbers that a seed and a stream fix, the same in every library and on every device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from clearcap.arrays import Array
from clearcap.sampling.solvers import Randn

WORD = 1 << 64  # keys of the generator are two of these


def normal(seed: int, stream: int, draw: int, count: int) -> Float[np.ndarray, " {count}"]:
    """Standard normal numbers that depend on the arguments alone.

    Bits come from Philox4x64-10, keyed by seed and stream and counted from the draw (Salmon et al. 2011); two numbers
    from each 64 of them by Box and Muller's transform, in float64. NumPy's own normal numbers may change with its
    version; its bits may not.
    """
    key = np.array([seed % WORD, stream % WORD], np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, draw], np.uint64)).random_raw(
        (count + 1) // 2
    )
    radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + 0.5) / 2**32))
    angle = (bits & np.uint64(2**32 - 1)) * (2 * math.pi / 2**32)
    pairs = radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    return pairs.reshape(-1)[:count].astype(np.float32)


def randn_rows(
    seed: int,
    streams: Sequence[int],
    length: int,
    dim: int,
    asarray: Callable[[np.ndarray], Any] = np.asarray,
) -> Randn:
    """Draws a batch whose row i comes from stream i alone, so that a caption does not depend on the rest of its batch.

    Args:
        seed: of all rows.
        streams: of each row.
        length, dim: of a row.
        asarray: makes it an array of the library, and on the device, that it is wanted in.
    """
    draws = itertools.count()
    distinct = list(dict.fromkeys(streams))
    rows = [distinct.index(stream) for stream in streams] if len(distinct) < len(streams) else None

    def randn() -> Array:
        draw = next(draws)
        drawn = np.stack([normal(seed, stream, draw, length * dim) for stream in distinct])
        return asarray((drawn if rows is None else drawn[rows]).reshape(-1, length, dim))

    return randn
