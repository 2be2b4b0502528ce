"""What one chunk of feedback work gives back: the records, the rejects, and counts worth telling.

Every input ends exactly once, in `records` or in `rejects`. Writing them down is the stage's business.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from cai.records import Reject

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Made]):
    records: list[Made] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """What was done to texts on the way and how often, such as "revision: preamble removed"."""


class Identified(Protocol):
    @property
    def id(self) -> str: ...


Input = TypeVar("Input", bound=Identified)


def first_of_each(inputs: Sequence[Input], stage: str, rejects: list[Reject]) -> list[Input]:
    """The inputs whose id comes for the first time; the others are added to the rejects."""
    kept: dict[str, Input] = {}
    for item in inputs:
        if item.id in kept:
            rejects.append(Reject(item.id, stage, "duplicate input", "the same input stands earlier in this chunk"))
        else:
            kept[item.id] = item
    return list(kept.values())
