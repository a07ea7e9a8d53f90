"""How sure a score is: bootstrap intervals, and paired tests of two systems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clearcap.config import number
from clearcap.errors import InputError
from clearcap.metrics.scoring import Scores

BATCH = 64  # resamples taken at once: 64 x 40,000 photos of 8 bytes are 20 MB


@dataclass(frozen=True)
class Interval:
    """A score and the range that holds the given share of its bootstrap resamples (percentile method)."""

    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Comparison:
    """System A against system B on the same photos.

    Attributes:
        difference: score of A minus score of B, with its bootstrap interval.
        p_bootstrap: two-sided share of paired bootstrap resamples on the other side of zero (Koehn 2004).
        p_permutation: two-sided p-value of the approximate randomisation test (Riezler and Maxwell 2005).
    """

    difference: Interval
    p_bootstrap: float
    p_permutation: float

    def to_json(self) -> dict[str, Any]:
        """The figures, unrounded."""
        return {
            "difference": self.difference.estimate,
            "interval": [self.difference.low, self.difference.high],
            "p_bootstrap": self.p_bootstrap,
            "p_permutation": self.p_permutation,
        }


def intervals(scores: Scores, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
    """Bootstrap interval of each metric over photos sampled with replacement.

    BLEU is recomputed from summed n-gram statistics of each resample. CIDEr-D keeps the document frequency of
    the whole set, as if it were given. Scores that cannot be computed from parts, such as METEOR, are left out.
    """
    samples, seed = _checked(samples, level, seed)
    rng = np.random.default_rng(seed)
    names = _resampled(scores)
    resamples = _resamples(rng, len(scores.photos), samples)
    found = _joined([_of_selections(names, (scores, weights)) for weights in resamples])
    return {name: _interval(scores.corpus[name], found[name], level) for name in names}


def compare(
    a: Scores, b: Scores, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two systems metric by metric, photo by photo.

    Raises:
        InputError: the systems were not scored on the same photos or share no metric.
    """
    samples, seed = _checked(samples, level, seed)
    if set(a.photos) != set(b.photos):
        raise InputError(
            f"the two results cover different photos ({len(a.photos)} and {len(b.photos)}, "
            f"{len(set(a.photos) & set(b.photos))} in both); score both on the same photos"
        )
    b = _reordered(b, a)
    names = [name for name in _resampled(a) if name in _resampled(b)]
    if not names:
        raise InputError(f"the two results share no metric ({', '.join(a.corpus)} and {', '.join(b.corpus)})")
    rng, photos = np.random.default_rng(seed), len(a.photos)
    resamples = _resamples(rng, photos, samples)
    resampled = _joined([_differences(names, [(a, taken)], [(b, taken)]) for taken in resamples])
    kept = (rng.integers(0, 2, (size, photos)) for size in _batches(samples))
    swaps = (([(a, keep), (b, 1 - keep)], [(b, keep), (a, 1 - keep)]) for keep in kept)
    swapped = _joined([_differences(names, *swap) for swap in swaps])
    found: dict[str, Comparison] = {}
    for name in names:
        difference, values = a.corpus[name] - b.corpus[name], resampled[name]
        beyond = min((values <= 0).mean(), (values >= 0).mean())
        # one added to both: the arrangement that was observed is one of the permutations
        extreme = (1 + (np.abs(swapped[name]) >= abs(difference) - 1e-12).sum()) / (1 + samples)
        interval = _interval(difference, values, level)
        found[name] = Comparison(interval, float(min(1.0, 2 * beyond)), float(extreme))
    return found


def _checked(samples: int, level: float, seed: int) -> tuple[int, int]:
    samples = number("samples", samples, int)
    if samples < 1:
        raise InputError(f"samples={samples} is too few to estimate anything; pass 1000 or more")
    if not 0 < number("level", level, float) < 1:
        raise InputError(f"level={level} is not between 0 and 1; pass 0.95 for a 95% interval")
    return samples, number("seed", seed, int, 0)


def _resampled(scores: Scores) -> list[str]:
    """The scores of which a selection of photos has one too."""
    pools = {name: scores.pool_of(name) for name in scores.corpus}
    return [name for name, pool in pools.items() if pool is None or pool.rows is not None]


def _batches(samples: int) -> Iterator[int]:
    for done in range(0, samples, BATCH):
        yield min(BATCH, samples - done)


def _resamples(
    rng: np.random.Generator, photos: int, samples: int
) -> Iterator[Int[np.ndarray, "batch photos"]]:
    """How often each photo occurs in each resample."""
    for size in _batches(samples):
        yield rng.multinomial(photos, np.full(photos, 1 / photos), size)


def _joined(batches: Sequence[dict[str, Any]]) -> dict[str, Float[np.ndarray, " samples"]]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _of_selections(
    names: Sequence[str], *parts: tuple[Scores, Int[np.ndarray, "batch photos"]]
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Corpus scores of selections of photos.

    Args:
        names: of the scores.
        parts: a system, and how often each photo of it is in each selection; several systems may share a selection.
    """
    photos = sum(taken.sum(1) for _, taken in parts)
    found: dict[str, Float[np.ndarray, " batch"]] = {}
    for name in names:
        pools = [(scores.pool_of(name), taken) for scores, taken in parts]
        first = pools[0][0]
        if first is None:
            columns = [np.array(list(scores.per_caption[name].values()), float) for scores, _ in parts]
            found[name] = (
                sum(taken @ column for (_, taken), column in zip(parts, columns, strict=True)) / photos
            )
        elif name not in found:
            table = first.of_sum(sum(taken @ pool.rows for pool, taken in pools if pool is not None))
            found |= {one: table[:, column] for column, one in enumerate(first.scores)}
    return {name: found[name] for name in names}


def _differences(names: Sequence[str], one: Sequence[Any], other: Sequence[Any]) -> dict[str, Any]:
    a, b = _of_selections(names, *one), _of_selections(names, *other)
    return {name: a[name] - b[name] for name in names}


def _reordered(scores: Scores, like: Scores) -> Scores:
    place = {photo: i for i, photo in enumerate(scores.photos)}
    order = [place[photo] for photo in like.photos]
    pooled = (replace(pool, rows=None if pool.rows is None else pool.rows[order]) for pool in scores.pooled)
    columns = {
        name: {photo: column[photo] for photo in like.photos} for name, column in scores.per_caption.items()
    }
    return Scores(scores.corpus, columns, tuple(pooled))


def _interval(estimate: float, values: Float[np.ndarray, " samples"], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)
