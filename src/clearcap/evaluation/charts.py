"""Charts as inline SVG that takes its colours from the page, so that one chart serves light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Number: TypeAlias = float | int  # coordinates and values alike

WIDTH, NARROW, HEIGHT = 460, 320, 230  # of a half and a third of the page, in SVG units (pixels at full size)
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40  # margins


@dataclass(frozen=True)
class Point:
    """A mean over some photos.

    Attributes:
        x: where it stands.
        label: what it is called when pointed at.
        mean: of the photos.
        low, high: its 95% interval.
        photos: how many.
    """

    x: float
    label: str
    mean: float
    low: float
    high: float
    photos: int


@dataclass(frozen=True)
class Row:
    """A metric of a forest plot: its score, interval and, where there is one, its control."""

    name: str
    value: float
    low: float
    high: float
    control: float | None = None


def ticks(low: Number, high: Number, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) from at most ``low`` to at least ``high``."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= about), 10 * power)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, max(last, first + 1) + 1)]


def forest(rows: Sequence[Row]) -> str:
    """Scores with their intervals on one scale, and what is left of them with other photos' references."""
    step, left, right, width = 34, 84, 66, 940
    marks = ticks(0.0, max([0.01, *(row.high for row in rows)]), 8)
    height = step * len(rows) + 40
    bottom = height - 28

    def at(value: Number) -> float:
        return left + (width - left - right) * value / marks[-1]

    parts = [_line("grid", at(mark), at(mark), 6, bottom) for mark in marks]
    parts += [_text("tick", at(mark), bottom + 18, _short(mark)) for mark in marks]
    for place, row in enumerate(rows):
        y = 6 + step * (place + 0.5)
        tip = f"{row.name} {row.value:.4f}, 95% interval {row.low:.4f} to {row.high:.4f}"
        parts.append(_text("label", left - 12, y + 4, row.name, "end"))
        if row.control is not None:
            control = f"{row.name} against other photos' references {row.control:.4f}"
            parts.append(_with_tip(control, _dot("control", at(row.control), y, 5)))
        interval = _line("interval", at(row.low), at(row.high), y, y)
        value = _text("value", at(row.high) + 12, y + 4, f"{row.value:.3f}", "start")
        parts.append(_with_tip(tip, interval, _dot("dot", at(row.value), y, 5), value))
    return _svg(width, height, "Scores with 95% intervals", parts)


def histogram(values: Float[np.ndarray, " photos"], *, name: str, top: Number, bins: int = 20) -> str:
    """How many photos score how much; what lies beyond ``top`` is counted in the last bar."""
    marks_x = ticks(0.0, top, 5)
    edges = np.linspace(0.0, marks_x[-1], bins + 1)
    counts, _ = np.histogram(np.clip(values, 0.0, marks_x[-1]), edges)
    marks_y = ticks(0.0, float(max(counts.max(), 1)), 4)
    bottom = HEIGHT - BOTTOM
    x = _scale(0.0, marks_x[-1], LEFT, NARROW - RIGHT)
    y = _scale(0.0, marks_y[-1], bottom, TOP)
    parts = [_grid(y(mark), NARROW, mark) for mark in marks_y]
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            end = "or more" if high == edges[-1] and values.max() > high else f"to {high:.2f}"
            tip = f"{count:,} photo{'s' if count > 1 else ''} with {name} {low:.2f} {end}"
            parts.append(_bar(x(low) + 1, x(high) - 1, y(count), bottom, tip))
    parts += [_text("tick", x(mark), bottom + 16, _short(mark)) for mark in marks_x]
    mean = float(values.mean())
    at = x(min(mean, marks_x[-1]))
    anchor, shift = ("end", -6) if at > NARROW * 0.7 else ("start", 6)
    parts.append(_line("mean", at, at, TOP, bottom))
    parts.append(_text("value", at + shift, TOP + 10, f"mean {mean:.3f}", anchor))
    parts += _titles(f"{name} of a caption", "photos", (TOP + bottom) / 2, NARROW)
    return _svg(NARROW, HEIGHT, f"Distribution of {name} over photos", parts)


def curve(points: Sequence[Point], *, x_title: str, y_title: str, whole_x: bool = False) -> str:
    """Means with their intervals above, the number of photos behind each one below."""
    height, split, bottom = 290, 176, 250
    marks_y = ticks(0.0, max([0.01, *(point.high for point in points)]), 4)
    low, high = min(point.x for point in points), max(point.x for point in points)
    if whole_x:
        low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    marks_x = [mark for mark in ticks(low, high, 6) if not whole_x or mark % 1 == 0]
    gap = min((b.x - a.x for a, b in pairwise(points)), default=1.0)
    low_x = min(marks_x[0], points[0].x - gap / 2)
    high_x = max(marks_x[-1], points[-1].x + gap / 2)
    x = _scale(low_x, high_x, LEFT, WIDTH - RIGHT)
    y = _scale(0.0, marks_y[-1], split, TOP)
    most = max(point.photos for point in points)
    count = _scale(0.0, float(most), bottom, split + 22)
    parts = [_grid(y(mark), WIDTH, mark) for mark in marks_y]
    above = " ".join(f"{x(point.x):.1f},{y(point.high):.1f}" for point in points)
    below = " ".join(f"{x(point.x):.1f},{y(max(point.low, 0.0)):.1f}" for point in reversed(points))
    line = " ".join(f"{x(point.x):.1f},{y(point.mean):.1f}" for point in points)
    parts.append(f'<polygon class="band" points="{above} {below}"/><polyline class="line" points="{line}"/>')
    half = min(16.0, max((x(gap) - x(0.0)) / 2 - 1, 1.5))
    for point in points:
        tip = (
            f"{point.label}: {y_title} {point.mean:.3f} ({point.low:.3f} to {point.high:.3f}), "
            f"{point.photos:,} photo{'s' if point.photos > 1 else ''}"
        )
        at = x(point.x)
        parts.append(_with_tip(tip, _dot("dot", at, y(point.mean), 4)))
        parts.append(_bar(at - half, at + half, count(point.photos), bottom, tip, kind="count"))
    parts.append(_line("axis", LEFT, WIDTH - RIGHT, bottom, bottom))
    parts.append(_text("tick", LEFT - 6, split + 30, f"{most:,}", "end"))
    parts.append(_text("tick", LEFT - 6, bottom, "0", "end"))
    parts += [_text("tick", x(mark), bottom + 16, _short(mark)) for mark in marks_x]
    parts += _titles(x_title, y_title, (TOP + split) / 2, WIDTH, height)
    parts.append(_upright("photos", (split + 22 + bottom) / 2))
    return _svg(WIDTH, height, f"{y_title} by {x_title}", parts)


def _svg(width: Number, height: Number, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _scale(low: Number, high: Number, start: Number, end: Number) -> Callable[[Number], float]:
    """The linear map from values to SVG units."""
    slope = (end - start) / ((high - low) or 1.0)
    return lambda value: start + (float(value) - low) * slope


def _bar(left: Number, right: Number, top: Number, bottom: Number, tip: str, kind: str = "bar") -> str:
    r = max(0.0, min(3.0, (right - left) / 2, bottom - top))  # rounded at the end of the value only
    path = (
        f"M{left:.1f},{bottom:.1f} V{top + r:.1f} Q{left:.1f},{top:.1f} {left + r:.1f},{top:.1f} "
        f"H{right - r:.1f} Q{right:.1f},{top:.1f} {right:.1f},{top + r:.1f} V{bottom:.1f} Z"
    )
    return f'<path class="{kind}" d="{path}"><title>{escape(tip)}</title></path>'


def _grid(y: Number, width: Number, value: Number) -> str:
    """A line across the chart with its value at the left."""
    return _line("grid", LEFT, width - RIGHT, y, y) + _text("tick", LEFT - 6, y + 4, _short(value), "end")


def _line(kind: str, x1: Number, x2: Number, y1: Number, y2: Number) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _dot(kind: str, x: Number, y: Number, r: Number) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'


def _with_tip(tip: str, *shapes: str) -> str:
    return f"<g><title>{escape(tip)}</title>{''.join(shapes)}</g>"


def _text(kind: str, x: Number, y: Number, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _titles(x_title: str, y_title: str, middle: Number, width: Number, height: Number = HEIGHT) -> list[str]:
    x = (LEFT + width - RIGHT) / 2
    return [_text("title", x, height - 6, x_title), _upright(y_title, middle)]


def _upright(text: str, middle: Number) -> str:
    return (
        f'<text class="title" transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(text)}</text>"
    )


def _short(value: Number) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
