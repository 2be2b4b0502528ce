"""How sure a number is: intervals for shares, means and paired differences, agreement, calibration.

Everything takes plain sequences and is exact or seeded, so the same data gives the same digits. numpy is loaded only
where resampling needs it.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """The two ends of a 95 % interval."""

    low: float
    high: float


def share_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval (1927), which stays honest at 0 of n and n of n; without data, everything is possible."""
    assert 0 <= successes <= n, (successes, n)
    if n == 0:
        return Interval(0.0, 1.0)
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exactly 0 and 1 at the extremes; rounding would leave a trace of the square root there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mean_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Interval:
    """The percentile bootstrap of the mean (Efron 1979). Equal values give a point: for shares use Wilson's."""
    import numpy as np

    assert len(values) > 0, "an interval needs at least one value"
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [data[generator.integers(len(data), size=len(data))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high))


def difference_interval(
    base: Sequence[float], tuned: Sequence[float], seed: int = 0, resamples: int = 2000
) -> Interval:
    """The bootstrap of mean(tuned - base) over the same items in the same order, so that the pairing counts."""
    assert len(base) == len(tuned), (len(base), len(tuned))
    return mean_interval([after - before for before, after in zip(base, tuned, strict=True)], seed, resamples)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement beyond chance (Cohen 1960); NaN when chance alone explains everything, and nothing is known."""
    assert len(a) == len(b) > 0, (len(a), len(b))
    n = len(a)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(_count(a, label) * _count(b, label) for label in set(a)) / (n * n)
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def expected_calibration_error(p: Sequence[float], y: Sequence[bool | int], bins: int = 10) -> float:
    """The mean gap between confidence and frequency over equally wide bins, each weighted by its share of the items."""
    assert len(p) == len(y) > 0, (len(p), len(y))
    gaps = [0.0] * bins
    for confidence, truth in zip(p, y, strict=True):
        gaps[min(int(confidence * bins), bins - 1)] += confidence - truth
    return sum(abs(gap) for gap in gaps) / len(p)


def brier(p: Sequence[float], y: Sequence[bool | int]) -> float:
    """The mean squared error of probabilities (Brier 1950)."""
    assert len(p) == len(y) > 0, (len(p), len(y))
    return math.fsum((confidence - truth) ** 2 for confidence, truth in zip(p, y, strict=True)) / len(p)


def _count(labels: Sequence[Hashable], label: Hashable) -> int:
    return sum(each == label for each in labels)
