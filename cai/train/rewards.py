"""Rewards of sampled answers: from a reward model, from a Python function, or from several of these together.

A reward that fails, or that is no finite number, ends the training with the answer's name: it never becomes a number
that somebody made up.
"""

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from cai.errors import CaiError
from cai.models.local.scorer import Scorer
from cai.records import Message
from cai.train.rollout import RewardFn, Rollout

AnswerReward = Callable[[Sequence[Message], str], float]
"""What an answer to a conversation is worth."""
BatchReward = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float]]
"""The same for many conversations with an answer each."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    reward: RewardFn
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum of named rewards, each of which is reported as `rewards/<name>` before it is weighted."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        assert names and len(set(names)) == len(names), names

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        return rewarded(self, rollouts).total


@dataclass(frozen=True, slots=True)
class Rewarded:
    total: list[float]
    parts: dict[str, list[float]]
    """By name, as far as the reward has parts."""


def rewarded(reward: RewardFn, rollouts: Sequence[Rollout]) -> Rewarded:
    """Every answer's reward, all of them finite numbers."""
    if not isinstance(reward, Blend):
        return Rewarded(_sound(reward, rollouts, "the reward"), {})
    parts = {part.name: _sound(part.reward, rollouts, f"reward {part.name!r}") for part in reward.parts}
    total = [sum(part.weight * parts[part.name][i] for part in reward.parts) for i in range(len(rollouts))]
    return Rewarded(total, parts)


def from_scorer(scorer: Scorer, offset: float = 0.0) -> RewardFn:
    """A reward model's score minus an offset, such as its mean over reference answers."""

    def reward(rollouts: Sequence[Rollout]) -> list[float]:
        with torch.no_grad():
            scores_B = scorer.scores([rollout.tokens for rollout in rollouts])
        return [score - offset for score in scores_B.tolist()]

    return reward


def from_function(function: AnswerReward) -> RewardFn:
    """A function of the conversation and the answer's text, asked answer by answer."""

    def reward(rollouts: Sequence[Rollout]) -> list[float]:
        return [_one(function, rollout) for rollout in rollouts]

    return reward


def from_batches(function: BatchReward) -> RewardFn:
    """A function of many conversations and their answers' texts at once, which gives a number for each."""

    def reward(rollouts: Sequence[Rollout]) -> list[float]:
        with _blamed(f"{len(rollouts)} answers"):
            values = function([rollout.prompt.messages for rollout in rollouts], [rollout.text for rollout in rollouts])
            return [float(value) for value in values]

    return reward


def _one(function: AnswerReward, rollout: Rollout) -> float:
    with _blamed(f"prompt {rollout.prompt.id}, answer {rollout.sample}"):
        return float(function(rollout.prompt.messages, rollout.text))


@contextmanager
def _blamed(place: str) -> Iterator[None]:
    """Somebody else's function: whatever it raises is told with the answers and the line where it happened."""
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise CaiError(
            f"{place}: the reward function failed at {frame.filename}:{frame.lineno} with {type(error).__name__}: "
            f"{error}; mend it, or have it return a number for such answers"
        ) from error


def _sound(reward: RewardFn, rollouts: Sequence[Rollout], name: str) -> list[float]:
    values = [float(value) for value in reward(rollouts)]
    if len(values) != len(rollouts):
        raise CaiError(f"{name} gave {len(values)} numbers for {len(rollouts)} answers; it must give one for each")
    for rollout, value in zip(rollouts, values, strict=True):
        if not math.isfinite(value):
            raise CaiError(
                f"prompt {rollout.prompt.id}, answer {rollout.sample}: {name} is {value}; "
                "have it return a finite number for every answer, whatever it says"
            )
    return values
