"""What is known of a reward beside what it says, and whether it knows anything. No torch here.

A policy follows a reward wherever it leads, noise too: scores that agree with held-out pairs no better than a coin does
still have some direction, and whoever learns from them changes without having been told anything.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.errors import InputError
from cai.statistics import Interval, share_interval, t_interval

FACTS = "reward.json"
TELLING = 20
"""Fewer pairs than this say nothing for or against a reward."""


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """What is known of a reward model's scores."""

    mean: float
    """Of all answers trained on: the zero that users of the scores want."""
    deviation: float
    accuracy: float | None
    """Share of pairs held out whose chosen answer has the higher score."""
    calibration_error: float | None
    """How far σ(score difference) lies from the labels of pairs held out."""
    held_out: int

    @property
    def at_chance(self) -> bool:
        """Whether enough pairs were held out, and the 95 % interval of the accuracy on them reaches one half."""
        if self.accuracy is None or self.held_out < TELLING:
            return False
        return share_interval(round(self.accuracy * self.held_out), self.held_out).low <= 0.5


def read_facts(folder: Path) -> RewardFacts | None:
    """Of the adapter folder of a trained reward model; nothing where another program made it."""
    path = folder / FACTS
    return RewardFacts(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def require_better_than_chance(place: str, folder: Path) -> None:
    """Refuse a reward model that is known to know nothing."""
    facts = read_facts(folder)
    if facts is not None and facts.at_chance:
        problem = f"it agrees with its {facts.held_out} held-out pairs no better than a coin"
        remedy = (
            "look at the pairs' labels (`cai data card`), train it longer or on more pairs, or set "
            "unproven_reward: allow to learn from it all the same"
        )
        raise InputError(place, problem, f"{facts.accuracy:.3f}", remedy)


def require_gain(place: str, gains: Sequence[float]) -> Interval | None:
    """How much higher a reward is for the better of two answers, on average, in pairs of which that is known; refuse it
    where nothing is left of that at the lower end of the 95 % interval. Too few pairs say nothing."""
    if len(gains) < TELLING:
        return None
    mean, gain = sum(gains) / len(gains), t_interval(gains)
    if gain.low <= 0:
        problem = (
            f"it scores {len(gains)} revisions no higher than the answers that they revise: what it says is noise to "
            "whoever learns from it, or the revisions are no better"
        )
        remedy = (
            "look at the revisions (`cai inspect`), measure the judge (`cai judge card`), mend the constitution, or "
            "set unproven_reward: allow to learn from it all the same"
        )
        raise InputError(place, problem, f"{mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})", remedy)
    return gain
