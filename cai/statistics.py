"""How sure a number is: intervals for shares, means and paired differences, agreement, calibration.

Everything takes plain sequences and is exact or seeded, so the same data gives the same digits. numpy is loaded only
where resampling needs it.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054
_CERTAIN, _SUREST = 13.815509557963774, 36.7368005696771
"""Log-odds of 1 - 1e-6, and of 1 - 2**-53, the last number short of 1: near 0 there are more, and both sides are one
another's mirror."""
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, _Z95)
"""Student's t for 1 to 15 degrees of freedom, and beyond."""


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


def t_interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean (1908), for the few values that a bootstrap cannot tell anything from."""
    assert len(values) > 0, "an interval needs at least one value"
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, mean)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _T95[min(n - 2, len(_T95) - 1)] * spread / math.sqrt(n)
    return Interval(mean - half, mean + half)


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


def expected_calibration_error(
    p: Sequence[float], y: Sequence[float], bins: int = 10, *, equal_mass: bool = False
) -> float:
    """The mean gap between confidence and frequency over bins, each weighted by its share of the items."""
    found = reliability(p, y, bins, equal_mass=equal_mass)
    return math.fsum(part.n * abs(part.confidence - part.frequency) for part in found) / len(p)


@dataclass(frozen=True)
class ReliabilityBin:
    """What was said of the items of one bin, and how often it was true."""

    n: int
    confidence: float
    frequency: float


def reliability(
    p: Sequence[float], y: Sequence[float], bins: int = 10, *, equal_mass: bool = False
) -> list[ReliabilityBin]:
    """The bins that hold anything, by rising confidence; a truth may be a half, where nobody knows.

    Bins are equally wide, or with `equal_mass` hold about equally many items; equal confidences are never parted.
    """
    assert len(p) == len(y) > 0, (len(p), len(y))
    ordered = sorted(zip(p, y, strict=True))
    parts: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    first = 0
    for i, item in enumerate(ordered):
        if item[0] != ordered[first][0]:
            first = i
        parts[first * bins // len(ordered) if equal_mass else min(int(item[0] * bins), bins - 1)].append(item)
    return [
        ReliabilityBin(len(part), math.fsum(q for q, _ in part) / len(part), math.fsum(t for _, t in part) / len(part))
        for part in parts
        if part
    ]


def auroc(p: Sequence[float], y: Sequence[bool | int]) -> float:
    """The chance that a true item got more than a false one, ties counting half; NaN where one kind is missing."""
    assert len(p) == len(y) > 0, (len(p), len(y))
    positives = _count([bool(truth) for truth in y], True)
    negatives = len(y) - positives
    if not positives or not negatives:
        return math.nan
    ranks = math.fsum(rank for rank, truth in zip(mean_ranks(p), y, strict=True) if truth)
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The correlation of ranks; NaN where one side never varies."""
    assert len(a) == len(b) > 0, (len(a), len(b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    x, y = mean_ranks(a), mean_ranks(b)
    middle = (len(a) + 1) / 2
    together = math.fsum((i - middle) * (j - middle) for i, j in zip(x, y, strict=True))
    apart = math.fsum((i - middle) ** 2 for i in x) * math.fsum((j - middle) ** 2 for j in y)
    return together / math.sqrt(apart)


def mean_ranks(values: Sequence[float]) -> list[float]:
    """Each value's rank from 1; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + 1 + end) / 2
        start = end
    return ranks


def tempered(p: float, temperature: float) -> float:
    """The probability with its log-odds divided by a temperature: above 1 it is less sure, below 1 surer."""
    return p if temperature == 1 else _sigmoid(_log_odds(p) / temperature)


def fit_temperature(p: Sequence[float], y: Sequence[bool | int]) -> float:
    """The temperature of least log-loss (Guo et al. 2017, arXiv 1706.04599), between 1/20 and 20.

    The loss is convex in 1/T, so its slope is halved down to zero.
    """
    assert len(p) == len(y) > 0, (len(p), len(y))
    odds = [_log_odds(each) for each in p]
    low, high = 1 / 20, 20.0
    for _ in range(60):
        inverse = math.sqrt(low * high)
        slope = math.fsum(z * (_sigmoid(z * inverse) - bool(truth)) for z, truth in zip(odds, y, strict=True))
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return 1 / math.sqrt(low * high)


def brier(p: Sequence[float], y: Sequence[bool | int]) -> float:
    """The mean squared error of probabilities (Brier 1950)."""
    assert len(p) == len(y) > 0, (len(p), len(y))
    return math.fsum((confidence - truth) ** 2 for confidence, truth in zip(p, y, strict=True)) / len(p)


def _count(labels: Sequence[Hashable], label: Hashable) -> int:
    return sum(each == label for each in labels)


def _log_odds(p: float) -> float:
    """Beyond one in a million they grow by a thousandth only: infinite ones would let one wrong item decide everything
    and could not be tempered, and equal ones would no longer tell who is surer."""
    odds = math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(_SUREST, p - 0.5)
    odds = min(max(odds, -_SUREST), _SUREST)
    beyond = abs(odds) - _CERTAIN
    return odds if beyond <= 0 else math.copysign(_CERTAIN + beyond / 1000, odds)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
