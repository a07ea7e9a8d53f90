"""Whether runs bear out what a paper says: confirmed, not confirmed, or cannot be told at this scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clearcap.evaluation.scores import Scored, compare_scored
from clearcap.studies.study import TIME, Claim, Study

CONFIRMED, NOT, UNTOLD = "confirmed", "not confirmed", "cannot be told"


def verdict_of(
    of: Sequence[float],
    than: Sequence[float],
    low: float,
    high: float,
    kind: str = "higher",
    margin: float = 0.0,
) -> str:
    """The verdict on a claim that one run's figure is higher than another's, or as good.

    Two things must agree. Photos: the 95% interval of the paired difference, seeds pooled, lies wholly beyond the
    threshold, which is 0, or minus the margin where the claim is "as good". Seeds: every seed of the one run lies
    on that side of every seed of the other. Where both point the other way the claim is not confirmed; where they
    disagree, or the interval holds the threshold, it cannot be told.

    Args:
        of, than: the two runs' figures, one a seed.
        low, high: the interval of their difference.
        kind: "higher" or "as good".
        margin: loss that does not count where the claim is "as good".
    """
    threshold = -margin if kind == "as good" else 0.0
    if low > threshold and min(of) > max(than) + threshold:
        return CONFIRMED
    if high < threshold and max(of) < min(than) + threshold:
        return NOT
    return UNTOLD


def decide(
    claim: Claim,
    study: Study,
    scored: Mapping[str, Sequence[Scored]],
    losses: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, Any]:
    """A claim about scores or losses, the figures that decide it, and the verdict.

    Args:
        claim: about two runs.
        study: its study.
        scored: figures of every run, one a seed.
        losses: likewise; a loss is decided by seeds alone, for it is no mean over photos of the split.
    """
    metric = claim.metric or study.decides
    found: dict[str, Any] = {"says": claim.says, "of": claim.of, "than": claim.than, "metric": metric}
    if metric in scored[claim.of][0].scores.corpus:
        of, than = ([one.scores.corpus[metric] for one in scored[run]] for run in (claim.of, claim.than))
        tested = compare_scored(scored[claim.of], scored[claim.than])[metric]
        found |= tested.to_json()
        low, high = tested.difference.low, tested.difference.high
    else:
        of, than = ([one[metric] for one in losses[run]] for run in (claim.of, claim.than))
        low = high = sum(of) / len(of) - sum(than) / len(than)
        found |= {"difference": low, "interval": None}
    found |= {"of_seeds": of, "than_seeds": than}
    return found | {"verdict": verdict_of(of, than, low, high, claim.kind, claim.margin)}


def decide_by_time(claim: Claim, ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A claim about milliseconds: "higher" is more by more than the margin, "as good" no more than that.

    Args:
        claim: about two runs.
        ms: milliseconds a photo of every run, one a seed.
    """
    of, than = ms[claim.of], ms[claim.than]
    ratio = (sum(of) / len(of)) / (sum(than) / len(than))
    if claim.kind == "as good":  # not slower
        sure, against = max(of) <= (1 + claim.margin) * min(than), min(of) > (1 + claim.margin) * max(than)
    else:
        sure, against = min(of) > (1 + claim.margin) * max(than), max(of) <= min(than)
    return {
        "says": claim.says,
        "of": claim.of,
        "than": claim.than,
        "metric": TIME,
        "ratio": ratio,
        "verdict": CONFIRMED if sure else NOT if against else UNTOLD,
    }


def conclusion_of(study: Study, decided: Sequence[Mapping[str, Any]], scale: str) -> str:
    """A paragraph that says what came of the claims.

    Args:
        study: whose claims they are.
        decided: what ``decide`` or ``decide_by_time`` found.
        scale: what was measured, in words.
    """
    if not decided:
        return f"Measured on {scale}; the paper makes no claim that these runs decide."
    counts = [(kind, [one for one in decided if one["verdict"] == kind]) for kind in (CONFIRMED, NOT, UNTOLD)]
    sums = ", ".join(f"{len(some)} {kind}" for kind, some in counts)
    claims = "1 claim" if len(decided) == 1 else f"{len(decided)} claims"
    sentences = [f"{claims} of {study.paper}, measured on {scale}: {sums}."]
    for kind, some in counts:
        sentences += [f"{kind[:1].upper()}{kind[1:]}: {one['says']} ({_figures(one)})." for one in some]
    return " ".join(sentences)


def _figures(one: Mapping[str, Any]) -> str:
    if one["metric"] == TIME:
        return f"{one['ratio']:.2f} times the milliseconds"
    text = f"{one['metric']} {one['difference']:+.3f}"
    if one["interval"] is None:
        return f"{text}, every seed against every seed"
    low, high = one["interval"]
    return f"{text}, {low:+.3f} to {high:+.3f}, p = {one['p_permutation']:.3f}"
