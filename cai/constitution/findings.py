"""What a lint rule reads and what it tells: the seam between `lint` and its rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cai.constitution.model import TEXTS, Constitution, Principle
from cai.constitution.released import Released

Severity = Literal["error", "warning", "advice"]


@dataclass(frozen=True)
class Note:
    """What a rule says about one place."""

    line: int
    message: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """A rule's note under the rule's own name."""

    rule: str
    severity: Severity
    line: int
    message: str
    advice: str


@dataclass(frozen=True)
class Subject:
    """What is being linted, and what has been released before."""

    constitution: Constitution
    released: Released

    @property
    def principles(self) -> tuple[Principle, ...]:
        return self.constitution.principles

    def texts(self) -> Iterator[tuple[Principle, str, str]]:
        """Each principle with the name and the words of each text that it has."""
        for principle in self.principles:
            for name in TEXTS:
                if text := principle.text(name):
                    yield principle, name, text


@dataclass(frozen=True)
class Rule:
    severity: Severity
    check: Callable[[Subject], Iterator[Note]]


def named(principle: Principle) -> str:
    return f"principle '{principle.id}'"
