"""A comparison as tables: times by length, batches and candidates, ratios."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.comparison import Comparison
from benchmarks.ratios import growth
from benchmarks.timing import Timing


def times_table(found: Comparison) -> Table:
    """A line a system, a column a length: milliseconds of one photo; then growth, operations and share."""
    machine = found.machine
    alone = [t for t in found.timings if (t.setting.batch, t.setting.candidates) == (1, 1)]
    lengths = sorted({t.setting.tokens for t in alone})
    middle = found.words if found.words in lengths else lengths[0]
    table = Table(
        title=f"One photo, {machine['dtype']} on {machine['device']}, {machine['threads']} threads",
        caption=f"median of {machine['rounds']} rounds; a large matrix product runs at "
        f"{machine['matrix_gflops']:,.0f} GFLOP/s; rounds differ {machine['noise']:.2f}x",
    )
    table.add_column("system")
    for heading in (*(f"{n} tokens, ms" for n in lengths), "growth", "GFLOP", "of peak"):
        table.add_column(heading, justify="right")
    for system in dict.fromkeys(t.system for t in alone):
        row = {t.setting.tokens: t for t in alone if t.system == system}
        grown = growth(found.timings, system)
        table.add_row(
            system,
            *(_ms(row.get(n)) for n in lengths),
            f"{grown.measured:.2f}x" if grown else "",
            *((f"{row[middle].gflop:.1f}", f"{row[middle].share:.0%}") if middle in row else ("", "")),
        )
    return table


def settings_table(found: Comparison) -> Table:
    """Milliseconds and photos a second at batches and candidates."""
    rows = [
        t
        for t in found.timings
        if t.setting.tokens == found.words
        and any(o.system == t.system and o.setting != t.setting for o in _at(found, found.words))
    ]
    table = Table(title=f"Batches and candidates, {found.words} tokens")
    table.add_column("system")
    for heading in ("photos", "candidates", "ms / photo", "photos / s", "GFLOP / photo", "of peak"):
        table.add_column(heading, justify="right")
    names = list(dict.fromkeys(t.system for t in rows))
    for t in sorted(rows, key=lambda t: (names.index(t.system), t.setting)):
        table.add_row(
            t.system,
            str(t.setting.batch),
            str(t.setting.candidates),
            _ms(t),
            f"{1 / t.seconds:.2f}",
            f"{t.gflop:.1f}",
            f"{t.share:.0%}",
        )
    return table


def ratios_table(found: Comparison) -> Table:
    """Each statement's measured ratio beside the asked one."""
    table = Table(title="What is said, and what was measured")
    table.add_column("ratio of times")
    for heading in ("measured", "least to greatest", "asked", ""):
        table.add_column(heading, justify="right")
    for ratio in found.ratios:
        table.add_row(
            ratio.statement,
            f"{ratio.measured:.2f}",
            f"{ratio.low:.2f} to {ratio.high:.2f}",
            f"{ratio.sign} {ratio.asked:g}",
            "yes" if ratio.holds else "no",
        )
    return table


def _at(found: Comparison, words: int) -> Sequence[Timing]:
    return [t for t in found.timings if t.setting.tokens == words]


def _ms(timing: Timing | None) -> str:
    return f"{timing.seconds * 1e3:,.0f}" if timing else ""
