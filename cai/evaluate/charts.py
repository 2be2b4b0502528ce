"""Charts as inline SVG: a strip of dots with intervals, and line charts with axes.

Geometry only, and every text in it escaped. Colours and type come from the page's style sheet through class names, so
that the same chart serves light, dark and paper. Every number is written with fixed decimals: equal data gives equal
bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import floor, isfinite, log10

Point = tuple[float, float]

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
_MOST_POINTS = 240
_LEAST_SPAN = 0.01
"""An axis is never so fine that noise fills it, or that its numbers need more room than they have."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One model on a strip: its share and the interval of it. `name` is a class of the style sheet."""

    name: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `name` is the legend, `style` a class of the style sheet."""

    name: str
    style: str
    points: Sequence[Point]


def dot_strip(marks: Sequence[Mark], label: str) -> str:
    """Shares on a scale from 0 to 1, one lane each. Places are percentages, so the strip fits any width."""
    lane, top = 13, 11
    height = 2 * top + lane * (len(marks) - 1)
    parts = [f'<line class="rule" x1="{x}%" x2="{x}%" y1="0" y2="{height}"/>' for x in (0, 25, 50, 75, 100)]
    for i, (mark, following) in enumerate(pairwise(marks)):
        ends = f'x1="{_at(mark.share)}" x2="{_at(following.share)}" y1="{top + lane * i}" y2="{top + lane * (i + 1)}"'
        parts.append(f'<line class="thread" {ends}/>')
    for i, mark in enumerate(marks):
        y = top + lane * i
        x, low, high = _at(mark.share), _at(mark.low), _at(mark.high)
        parts.append(
            f'<g class="mark {escape(mark.name)}"><line class="span" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<circle cx="{x}" cy="{y}" r="5"/></g>')
    return f'<svg class="strip" role="img" aria-label="{escape(label)}" height="{height}">{"".join(parts)}</svg>'


def line_chart(series: Sequence[Series], label: str, as_percent: bool = False, level: float | None = None) -> str:
    """Lines over steps. `level` draws a reference, such as the loss of a coin; a percent axis runs from 0 to 1."""
    series = [Series(s.name, s.style, _thinned(s.points)) for s in series]
    xs, ys = ([point[axis] for s in series for point in s.points] for axis in (0, 1))
    assert xs, label
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    shown = ys if level is None else [*ys, level]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if as_percent else ticks(min(shown), max(shown))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_y_axis(place(x_low, tick)[1], _tick_text(tick, y_ticks, as_percent)) for tick in y_ticks]
    parts += [_x_axis(place(tick, y_ticks[0])[0], f"{tick:.0f}") for tick in _step_ticks(x_low, x_high)]
    parts.append(_text("axis", _WIDTH - _RIGHT, _HEIGHT - 3, "end", "step"))
    if level is not None:
        y = place(x_low, level)[1]
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for s in series:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in s.points))
        x, y = place(*s.points[-1])
        parts.append(f'<g class="line {escape(s.style)}"><polyline points="{path}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/></g>')
    opening = f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
    return f"{opening}{''.join(parts)}</svg>"


def reliability_chart(bins: Sequence[tuple[float, float, int]]) -> str:
    """How sure against how often right, over the half that a choice between two can have; a dot's area is its items."""
    marks = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    lowest = min([0.5, *(right for _, right, _ in bins)])
    levels = [tick for tick in (0.0, 0.25, 0.5, 0.75, 1.0) if tick > lowest - 0.25]
    most = max(n for _, _, n in bins)

    def place(sure: float, right: float) -> tuple[float, float]:
        across, up = (sure - 0.5) / 0.5, (right - levels[0]) / (1 - levels[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_y_axis(place(0.5, tick)[1], f"{tick * 100:.0f}\u202f%") for tick in levels]
    parts += [_x_axis(place(tick, levels[0])[0], f"{tick * 100:.0f}") for tick in marks]
    parts.append(_text("axis", _WIDTH - _RIGHT, _HEIGHT - 3, "end", "how sure it was, %"))
    (x1, y1), (x2, y2) = place(0.5, 0.5), place(1.0, 1.0)
    parts.append(f'<line class="level" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>')
    for sure, right, n in bins:
        x, y = place(sure, right)
        parts.append(
            f'<g class="line first"><circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 3.5 * (n / most) ** 0.5:.1f}"/></g>'
        )
    told = ", ".join(f"{sure:.2f} sure and {right:.2f} right" for sure, right, _ in bins)
    opening = f'<svg class="chart" role="img" aria-label="{escape(told)}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
    return f"{opening}{''.join(parts)}</svg>"


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose the range."""
    least = max(_LEAST_SPAN, 0.02 * abs(low), 0.02 * abs(high))
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    rough = (high - low) / wanted
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = floor(low / step + 1e-9)
    last = first + 1
    while last * step < high - 1e-9 * step:
        last += 1
    return [round(i * step, 10) for i in range(first, last + 1)]


def _at(share: float) -> str:
    return f"{share * 100:.2f}%"


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most a few hundred points: neighbours become their mean. What is not a number leaves a gap."""
    known = [point for point in points if isfinite(point[1])]
    size = -(-len(known) // _MOST_POINTS) or 1
    buckets = [known[i : i + size] for i in range(0, len(known), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in buckets]


def _step_ticks(low: float, high: float) -> list[float]:
    return [tick for tick in ticks(low, high, 5) if low <= tick <= high and tick == floor(tick)]


def _tick_text(tick: float, among: Sequence[float], as_percent: bool) -> str:
    if as_percent:
        return f"{tick * 100:.0f}\u202f%"
    step = among[1] - among[0]
    digits = max(0, -floor(log10(step) + 1e-9))
    return f"{tick:.{digits}f}".replace("-", "−")


def _y_axis(y: float, text: str) -> str:
    rule = f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return rule + _text("axis", _LEFT - 7, y + 3.5, "end", text)


def _x_axis(x: float, text: str) -> str:
    return _text("axis", x, _HEIGHT - _BOTTOM + 15, "middle", text)


def _text(style: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
