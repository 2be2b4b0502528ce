"""How models differ on one suite: a row for each metric, with intervals; differences are paired item by item.

What is measured lives in `suites`, the resampling in `statistics`, the words and pictures in the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cai.errors import InputError
from cai.evaluate.suites import Better, Metric, SuiteResult, suite
from cai.statistics import difference_interval, share_interval

BASE, TUNED = "base", "tuned"
Span = tuple[float, float]
_DIGITS = 6
_LEAST_SHARED = 0.95
"""The share of prompts that all models must have answered."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of one suite. `values` holds the models that were measured; `difference` is tuned minus base."""

    suite: str
    metric: str
    better: Better
    values: dict[str, float]
    base: float | None
    tuned: float | None
    difference: float | None
    interval: Span | None
    """95 % of the difference; None where only one of the two was measured."""
    n: int
    intervals: dict[str, Span]
    """95 % of each model's own value."""

    @property
    def change(self) -> str:
        """What the difference amounts to: "better", "worse", or "same" when its interval holds zero."""
        if self.difference is None or self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "same"
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"


def compare(results: Mapping[str, SuiteResult], seed: int = 0) -> list[MetricRow]:
    """Rows for results of one suite by model name: `base`, `tuned`, and any stages between them."""
    (name,) = {result.suite for result in results.values()}
    rows = [_row(name, metric, results, seed) for metric in suite(name).metrics]
    return [row for row in rows if row is not None]


def _row(name: str, metric: Metric, results: Mapping[str, SuiteResult], seed: int) -> MetricRow | None:
    measured = {model: passes for model, result in results.items() if (passes := result.measured(metric))}
    if not measured:
        return None
    measured = _paired(name, metric, measured)
    values = {model: _share(passes) for model, passes in measured.items()}
    base, tuned, interval = values.get(BASE), values.get(TUNED), None
    if base is not None and tuned is not None:
        before, after = (list(map(float, measured[model].values())) for model in (BASE, TUNED))
        found = difference_interval(before, after, seed)
        interval = (round(found.low, _DIGITS), round(found.high, _DIGITS))
    difference = None if base is None or tuned is None else round(tuned - base, _DIGITS)
    own = {model: share_interval(sum(passes.values()), len(passes)) for model, passes in measured.items()}
    return MetricRow(
        suite=name,
        metric=metric.name,
        better=metric.better,
        values=values,
        base=base,
        tuned=tuned,
        difference=difference,
        interval=interval,
        n=len(next(iter(measured.values()))),
        intervals={model: (round(span.low, _DIGITS), round(span.high, _DIGITS)) for model, span in own.items()},
    )


def _share(passes: Mapping[str, bool]) -> float:
    return round(sum(passes.values()) / len(passes), _DIGITS)


def _paired(name: str, metric: Metric, measured: Mapping[str, Mapping[str, bool]]) -> dict[str, dict[str, bool]]:
    """Every model's items among those that all have: a lost prompt is left out for all, many lost ones are refused."""
    every, shared = (combine(*map(set, measured.values())) for combine in (set.union, set.intersection))
    if len(shared) < _LEAST_SHARED * len(every):
        raise InputError(
            f"suite {name}: {metric.name}",
            "the models answered different prompts, so their difference cannot be paired",
            f"{len(shared)} of {len(every)} prompts answered by all of {', '.join(measured)}",
            "evaluate all of them on the same prompts",
        )
    return {model: {i: passes[i] for i in sorted(shared)} for model, passes in measured.items()}
