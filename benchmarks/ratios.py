"""What is said about speed, each statement with its measured ratio beside the asked one."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.systems import DISTILLED, name_of
from benchmarks.timing import Setting, Timing, find

FLAT = 1.6  # greatest growth of ours from the shortest to the longest caption
GROWS = 3.0  # least growth of BLIP
BASELINE = "BLIP-base, beam 3"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times.

    Attributes:
        statement: what it is the ratio of.
        measured: the ratio of medians.
        low, high: the least and greatest ratio in one round.
        sign: "<=", ">=" or ">".
        asked: what it is asked to be.
    """

    statement: str
    measured: float
    low: float
    high: float
    sign: str
    asked: float

    @property
    def holds(self) -> bool:
        """Whether the measured ratio is as asked."""
        return (
            self.measured <= self.asked
            if self.sign == "<="
            else (self.measured >= self.asked if self.sign == ">=" else self.measured > self.asked)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "statement": self.statement,
            "measured": self.measured,
            "low": self.low,
            "high": self.high,
            "sign": self.sign,
            "asked": self.asked,
            "holds": self.holds,
        }


def ratios(timings: Sequence[Timing], words: int = 16) -> list[Ratio]:
    """Every statement whose systems and settings were measured.

    Args:
        timings: of one run.
        words: tokens at which ours is set against BLIP.
    """
    return [*_growths(timings), *_leads(timings, words)]


def growth(timings: Sequence[Timing], system: str) -> Ratio | None:
    """How a system's time for one photo grows from the shortest to the longest caption, if both were measured."""
    one = [t for t in timings if t.system == system and (t.setting.batch, t.setting.candidates) == (1, 1)]
    if not one:
        return None
    short, long = (pick(one, key=lambda t: t.setting.tokens) for pick in (min, max))
    if short is long:
        return None
    theirs = system.startswith("BLIP")
    return _ratio(
        f"{system}: one photo, {long.setting.tokens} tokens / {short.setting.tokens} tokens",
        long,
        short,
        ">=" if theirs else "<=",
        GROWS if theirs else FLAT,
    )


def _growths(timings: Sequence[Timing]) -> Iterator[Ratio]:
    for system in (*_distilled(timings), "BLIP-base, greedy", BASELINE):
        found = growth(timings, system)
        if found:
            yield found


def _leads(timings: Sequence[Timing], words: int) -> Iterator[Ratio]:
    for system in _distilled(timings):
        for batch in sorted({t.setting.batch for t in timings}):
            setting = Setting(words, batch=batch)
            mine, theirs = find(timings, system, setting), find(timings, BASELINE, setting)
            if mine and theirs:
                yield _ratio(
                    f"{BASELINE} / {system}: {words} tokens, batch {batch}, per photo", theirs, mine, ">", 1.0
                )


def _distilled(timings: Sequence[Timing]) -> list[str]:
    names = [name_of(size, *DISTILLED) for size in ("bundled", "paper")]
    return [name for name in names if any(t.system == name for t in timings)]


def _ratio(statement: str, over: Timing, under: Timing, sign: str, asked: float) -> Ratio:
    ratios = [a / b for a, b in zip(over.rounds, under.rounds, strict=True)]
    return Ratio(statement, over.seconds / under.seconds, min(ratios), max(ratios), sign, asked)


def spread(timing: Timing) -> float:
    """The slowest round over the fastest."""
    return max(timing.rounds) / min(timing.rounds)


def noisiest(timings: Sequence[Timing]) -> float:
    """The median spread of all timings: how far the machine can be trusted."""
    return statistics.median(spread(t) for t in timings)
