"""What one chunk of feedback work gives back: the records, the rejects, and counts worth telling.

Every input ends exactly once, in `records` or in `rejects`. Writing them down is the stage's business.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from cai.models.protocol import TOO_LONG, RowError
from cai.records import Reject

Call = Literal["answer", "critique", "revision", "judgement"]
"""What a model is asked for."""
_LENGTHS: dict[Call, str] = {
    "answer": "prompt too long",
    "critique": "too long to criticise",
    "revision": "too long to revise",
    "judgement": "too long to judge",
}
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


def reason_at(call: Call, reason: str) -> str:
    """The reason as a reject says it: of what is too long, which part was too much."""
    return _LENGTHS[call] if reason == TOO_LONG else reason


@contextmanager
def asking(call: Call, where: str = "") -> Iterator[None]:
    """Around a call to a model: a conversation that cannot become tokens is named by what it was for."""
    try:
        yield
    except RowError as error:
        raise RowError(reason_at(call, error.reason), f"{where}{call}: {error.detail}") from error
