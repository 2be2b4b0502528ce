"""Where a training stands, worked out from its metrics alone: what was best, and whether it is over.

Whoever goes on after an interruption reads the metrics before it again and knows what an uninterrupted training would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.train.config import TrainConfig

_LESS = ("loss", "error", "refus", "length", "tokens", "words", "kl", "harmful", "repetition", "brier")
"""Metrics with these words in their names are better the smaller they are."""


@dataclass(frozen=True, slots=True)
class Best:
    number: int
    value: float


class Progress:
    """The updates so far, as their metrics tell them."""

    def __init__(self, config: TrainConfig, history: Sequence[Mapping[str, float]] = ()) -> None:
        self._config = config
        self.best: Best | None = None
        self._misses = 0
        for metrics in history:
            self.see(metrics)

    def see(self, metrics: Mapping[str, float]) -> bool:
        """Take in an update; whether it is the best one so far."""
        name = self._config.best
        if name is None or name not in metrics:
            return False
        value = metrics[name]
        if self.best is None or (value < self.best.value if less_is_better(name) else value > self.best.value):
            self.best, self._misses = Best(int(metrics["step"]), value), 0
            return True
        self._misses += 1
        return False

    @property
    def over(self) -> bool:
        """Nothing better came for as long as there was patience."""
        return 0 < self._config.patience <= self._misses


def less_is_better(metric: str) -> bool:
    return any(word in metric.lower() for word in _LESS)
