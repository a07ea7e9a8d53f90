"""How far several people agree: Krippendorff's alpha, and the correlations of pairs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from clearcap.errors import InputError

LEVELS = ("ordinal", "interval")


def krippendorff_alpha(values: Float[np.ndarray, "raters units"], level: str = "ordinal") -> float | None:
    """Krippendorff's alpha (Krippendorff 2011): 1 is full agreement, 0 that of chance; as the package krippendorff's.

    Args:
        values: what each rater said of each unit; NaN where nothing was said.
        level: "ordinal" values are ranks, "interval" values are numbers whose differences count.

    Returns:
        Alpha, or None where it is not defined: no unit was rated twice, or all ratings are the same.

    Raises:
        InputError: another level.
    """
    if level not in LEVELS:
        raise InputError(f"level={level!r}; choose one of {', '.join(LEVELS)}")
    paired = values[:, (~np.isnan(values)).sum(0) > 1]
    known = np.unique(paired[~np.isnan(paired)])
    if len(known) < 2:
        return None
    counts = (paired[:, :, None] == known).sum(0).astype(float)  # [units, values]
    raters = counts.sum(1)[:, None, None]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(known))
    coincidences = (pairs / (raters - 1)).sum(0)
    total = coincidences.sum(1)
    if level == "interval":
        distance = (known[:, None] - known) ** 2
    else:
        below = np.concatenate(([0.0], total.cumsum()))
        middle = (below[:-1] + below[1:]) / 2  # of a value among all ranks
        distance = (middle[:, None] - middle) ** 2
    expected = (total[:, None] * total * distance).sum() / (total.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected)


def correlations(
    a: Float[np.ndarray, " units"], b: Float[np.ndarray, " units"]
) -> tuple[float | None, float | None, int]:
    """Pearson's and Spearman's correlation of two raters, and the units that both rated; None is not defined.

    Args:
        a, b: what they said; NaN where nothing.
    """
    both = ~np.isnan(a) & ~np.isnan(b)
    x, y = a[both], b[both]
    return _pearson(x, y), _pearson(_ranks(x), _ranks(y)), int(both.sum())


def _pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks, those of equal values averaged."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
