"""How sure a score is: bootstrap intervals, spread over seeds, and paired tests of two systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clearcap.errors import InputError
from clearcap.metrics import bleu
from clearcap.metrics.scoring import Scores

BATCH = 64  # resamples drawn at once: 64 x 40,000 photos of 8 bytes are 20 MB


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


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over runs; the deviation of a single run is 0."""

    mean: float
    deviation: float
    runs: int


def intervals(scores: Scores, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
    """Bootstrap interval of each metric over photos drawn with replacement.

    BLEU is recomputed from summed n-gram statistics of each resample. CIDEr-D keeps the document frequency of
    the whole set, as if it were given. METEOR is left out: its corpus score is no mean over photos.
    """
    _check(samples, level)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Float[np.ndarray, " batch"]]] = {}
    for weights in _resamples(rng, len(scores.photos), samples):
        for name, values in _weighted(scores, weights).items():
            drawn.setdefault(name, []).append(values)
    return {name: _interval(scores.corpus[name], np.concatenate(v), level) for name, v in drawn.items()}


def compare(
    a: Scores, b: Scores, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two systems metric by metric, photo by photo.

    Raises:
        InputError: the systems were not scored on the same photos or share no metric.
    """
    _check(samples, level)
    if set(a.photos) != set(b.photos):
        raise InputError(
            f"the two results cover different photos ({len(a.photos)} and {len(b.photos)}, "
            f"{len(set(a.photos) & set(b.photos))} in both); score both on the same photos"
        )
    b = _reordered(b, a)
    names = [name for name in _means(a) if name in b.corpus]
    if not names:
        raise InputError(f"the two results share no metric ({', '.join(a.corpus)} and {', '.join(b.corpus)})")
    photos = len(a.photos)
    resampled: dict[str, list[Float[np.ndarray, " batch"]]] = {name: [] for name in names}
    swapped: dict[str, list[Float[np.ndarray, " batch"]]] = {name: [] for name in names}
    rng = np.random.default_rng(seed)
    for weights in _resamples(rng, photos, samples):
        of_a, of_b = _weighted(a, weights), _weighted(b, weights)
        for name in names:
            resampled[name].append(of_a[name] - of_b[name])
    for size in _batches(samples):
        keep = rng.integers(0, 2, (size, photos))
        once, other = _mixed(a, b, keep), _mixed(b, a, keep)
        for name in names:
            swapped[name].append(once[name] - other[name])
    return {
        name: _comparison(
            a.corpus[name] - b.corpus[name],
            np.concatenate(resampled[name]),
            np.concatenate(swapped[name]),
            level,
        )
        for name in names
    }


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Mean and deviation of each metric over runs that differ in their seed.

    Args:
        runs: `Scores.corpus` of each run; metrics that not every run has are left out.
    """
    if not runs:
        raise InputError("no runs were given; pass the scores of at least one")
    names = [name for name in runs[0] if all(name in run for run in runs)]
    table = np.array([[run[name] for name in names] for run in runs], float)
    deviation = table.std(0, ddof=1) if len(runs) > 1 else np.zeros(len(names))
    means = table.mean(0)
    return {name: Spread(float(means[i]), float(deviation[i]), len(runs)) for i, name in enumerate(names)}


def _check(samples: int, level: float) -> None:
    if samples < 1:
        raise InputError(f"samples={samples} is too few to estimate anything; pass 1000 or more")
    if not 0 < level < 1:
        raise InputError(f"level={level} is not between 0 and 1; pass 0.95 for a 95% interval")


def _means(scores: Scores) -> list[str]:
    return [name for name in scores.corpus if name != "METEOR"]


def _batches(samples: int) -> Iterator[int]:
    for done in range(0, samples, BATCH):
        yield min(BATCH, samples - done)


def _resamples(
    rng: np.random.Generator, photos: int, samples: int
) -> Iterator[Int[np.ndarray, "batch photos"]]:
    """How often each photo occurs in each resample."""
    for size in _batches(samples):
        yield rng.multinomial(photos, np.full(photos, 1 / photos), size)


def _values(scores: Scores, name: str) -> Float[np.ndarray, " photos"]:
    return np.array(list(scores.per_caption[name].values()), float)


def _weighted(
    scores: Scores, weights: Int[np.ndarray, "batch photos"]
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Corpus scores of resamples."""
    found = {}
    if scores.bleu_statistics is not None:
        table = bleu.from_statistics(weights @ scores.bleu_statistics)
        found = {name: table[:, column] for column, name in enumerate(bleu.NAMES)}
    for name in _means(scores):
        if name not in found:
            found[name] = weights @ _values(scores, name) / weights.sum(1)
    return found


def _mixed(
    a: Scores, b: Scores, keep: Int[np.ndarray, "batch photos"]
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Corpus scores of mixtures that take a photo from A where `keep` is 1, from B where it is 0."""
    found = {}
    if a.bleu_statistics is not None and b.bleu_statistics is not None:
        table = bleu.from_statistics(keep @ a.bleu_statistics + (1 - keep) @ b.bleu_statistics)
        found = {name: table[:, column] for column, name in enumerate(bleu.NAMES)}
    for name in _means(a):
        if name not in found and name in b.corpus:
            found[name] = (keep @ _values(a, name) + (1 - keep) @ _values(b, name)) / keep.shape[1]
    return found


def _reordered(scores: Scores, like: Scores) -> Scores:
    place = {photo: i for i, photo in enumerate(scores.photos)}
    order = [place[photo] for photo in like.photos]
    table = scores.bleu_statistics
    return Scores(
        scores.corpus,
        {
            name: {photo: column[photo] for photo in like.photos}
            for name, column in scores.per_caption.items()
        },
        None if table is None else table[order],
    )


def _interval(estimate: float, values: Float[np.ndarray, " samples"], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)


def _comparison(
    difference: float,
    resampled: Float[np.ndarray, " samples"],
    swapped: Float[np.ndarray, " samples"],
    level: float,
) -> Comparison:
    beyond = min((resampled <= 0).mean(), (resampled >= 0).mean())
    # one added to both: the arrangement that was observed is one of the permutations
    extreme = (1 + (np.abs(swapped) >= abs(difference) - 1e-12).sum()) / (1 + len(swapped))
    return Comparison(_interval(difference, resampled, level), float(min(1.0, 2 * beyond)), float(extreme))
