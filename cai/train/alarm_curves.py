"""What monitors look at: each metric's curve, how a stretch of it is summed up, and how it is told.

Which curves are alarming is `alarm_losses`', `alarm_policy`'s and `alarm_answers`' business.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RECENT = 8
"""Updates whose median counts as how things are now: one bad batch, or three, do not move it."""

ONE_SIDED = 1.645
"""Standard errors to a bound that holds in 95 of 100 cases."""


@dataclass(frozen=True, slots=True)
class Point:
    step: int
    value: float


class Curves:
    """Every metric's values so far, oldest first. What is not a finite number is kept apart, in `broken`."""

    def __init__(self) -> None:
        self.step = 0
        self.broken: dict[str, float] = {}
        """The latest update's values that are no finite numbers."""
        self.warmed_up: int | None = None
        """The first update after the learning rate stopped rising; before, a model that hardly moves is no sign."""
        self._points: dict[str, list[Point]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """One update's metrics. A line of `metrics.jsonl` brings its number; others are counted from 1."""
        self.step = int(metrics.get("step", self.step + 1))
        self.broken = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        rates = self.of("learning_rate")
        if self.warmed_up is None and rates and metrics.get("learning_rate", math.inf) <= rates[-1].value:
            self.warmed_up = self.step
        for name, value in metrics.items():
            if name != "step" and name not in self.broken:
                self._points.setdefault(name, []).append(Point(self.step, value))

    def of(self, name: str) -> Sequence[Point]:
        return self._points.get(name, ())

    def after_warm_up(self, name: str, most: int) -> Sequence[Point]:
        """The newest points, `most` of them, as far as they lie behind the warm-up."""
        start = self.warmed_up
        return [] if start is None else [point for point in self.of(name)[-most:] if point.step >= start]


def median(points: Sequence[Point]) -> float:
    return statistics.median(point.value for point in points)


def mean(points: Sequence[Point]) -> float:
    return statistics.fmean(point.value for point in points)


def standard_error(points: Sequence[Point]) -> float:
    """Of the mean, from how much the updates differ."""
    return statistics.stdev(point.value for point in points) / math.sqrt(len(points))


def told(points: Sequence[Point]) -> str:
    """`0.69 over updates 3–10`: the median, and where it was measured."""
    if not points:
        return "not measured"
    return f"{median(points):.3g} {where(points)}"


def where(points: Sequence[Point]) -> str:
    first, last = points[0].step, points[-1].step
    return f"at update {last}" if first == last else f"over updates {first}–{last}"
