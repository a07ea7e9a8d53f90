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


def intervals(
    scores: Scores | Sequence[Scores], samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap interval of each metric over photos sampled with replacement.

    BLEU is recomputed from summed n-gram statistics of each resample. CIDEr-D keeps the document frequency of
    the whole set, as if it were given. Scores that cannot be computed from parts, such as METEOR, are left out.

    Args:
        scores: of a system. Those of several runs of it (seeds) are pooled: a photo that is sampled brings its
            caption of every run, so runs do not make the interval narrower than the photos allow.
        samples: resamples.
        level: share of them that the interval holds.
        seed: of the sampling.

    Raises:
        InputError: runs were not scored on the same photos.
    """
    samples, seed = _checked(samples, level, seed)
    rng = np.random.default_rng(seed)
    runs = _aligned(_several(scores))
    names, corpus = _shared(runs), _pooled(runs)
    resamples = _resamples(rng, len(runs[0].photos), samples)
    found = _joined([_of_selections(names, *((run, taken) for run in runs)) for taken in resamples])
    return {name: _interval(corpus[name], found[name], level) for name in names}


def compare(
    a: Scores | Sequence[Scores],
    b: Scores | Sequence[Scores],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two systems metric by metric, photo by photo.

    Args:
        a, b: scores of the systems; those of several runs (seeds) of one are pooled, as by ``intervals``, and all
            captions of a photo are sampled or exchanged together.
        samples: resamples, and rearrangements.
        level: share of the resamples that the interval holds.
        seed: of both.

    Raises:
        InputError: the systems were not scored on the same photos, share no metric, or have another number of runs.
    """
    samples, seed = _checked(samples, level, seed)
    count, total = len(_several(a)), len(_several(a)) + len(_several(b))
    if total != 2 * count:
        raise InputError(f"{count} runs cannot be exchanged with {total - count}; compare as many of each")
    runs = _aligned([*_several(a), *_several(b)])
    mine, other = runs[:count], runs[count:]
    names = [name for name in _shared(mine) if name in _shared(other)]
    if not names:
        said = (", ".join(some[0].corpus) for some in (mine, other))
        raise InputError(f"the two results share no metric ({' and '.join(said)})")
    rng, photos = np.random.default_rng(seed), len(runs[0].photos)

    def taken(runs: Sequence[Scores], weights: Any) -> list[tuple[Scores, Any]]:
        return [(run, weights) for run in runs]

    resamples = _resamples(rng, photos, samples)
    resampled = _joined(
        [_differences(names, taken(mine, weights), taken(other, weights)) for weights in resamples]
    )
    kept = (rng.integers(0, 2, (size, photos)) for size in _batches(samples))
    swaps = (
        (taken(mine, keep) + taken(other, 1 - keep), taken(other, keep) + taken(mine, 1 - keep))
        for keep in kept
    )
    swapped = _joined([_differences(names, *swap) for swap in swaps])
    found: dict[str, Comparison] = {}
    here, there = _pooled(mine), _pooled(other)
    for name in names:
        difference, values = here[name] - there[name], resampled[name]
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


def _several(scores: Scores | Sequence[Scores]) -> list[Scores]:
    return [scores] if isinstance(scores, Scores) else list(scores)


def _aligned(runs: Sequence[Scores]) -> list[Scores]:
    """Scores of the same photos, in one order. Raises InputError where they are of others."""
    first = runs[0]
    for run in runs[1:]:
        if set(first.photos) != set(run.photos):
            raise InputError(
                f"the two results cover different photos ({len(first.photos)} and {len(run.photos)}, "
                f"{len(set(first.photos) & set(run.photos))} in both); score both on the same photos"
            )
    return [first, *(_reordered(run, first) for run in runs[1:])]


def _shared(runs: Sequence[Scores]) -> list[str]:
    return [name for name in _resampled(runs[0]) if all(name in _resampled(run) for run in runs)]


def _pooled(runs: Sequence[Scores]) -> dict[str, float]:
    """Corpus scores of the captions of all runs together."""
    if len(runs) == 1:
        return runs[0].corpus
    every = np.ones((1, len(runs[0].photos)), int)
    of_all = _of_selections(_shared(runs), *((run, every) for run in runs))
    return {name: float(value[0]) for name, value in of_all.items()}


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
