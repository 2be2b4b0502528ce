"""A constitution as a value: its principles, its digests, and the draw of the principle that a row meets.

What a file may hold is said by `layout`, reading it by `loading`; whether it is any good is said by `lint`.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cai.errors import InputError
from cai.records import canonical, digest
from cai.seeds import derive, uniform

Use = Literal["revise", "judge"]
USES: tuple[Use, ...] = ("revise", "judge")
TEXTS = ("critique", "revision", "preference")


@dataclass(frozen=True)
class PrincipleTest:
    """A prompt with two answers; a judge who follows the principle prefers `better`."""

    prompt: str
    better: str
    worse: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Principle:
    """One principle. A text that the file leaves out is empty, and the principle then serves one use only."""

    id: str
    critique: str
    revision: str
    preference: str
    weight: float = 1.0
    tests: tuple[PrincipleTest, ...] = ()
    line: int = field(default=0, compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def serves(self, use: Use) -> bool:
        return bool(self.critique and self.revision) if use == "revise" else bool(self.preference)

    def text(self, name: str) -> str:
        return {"critique": self.critique, "revision": self.revision, "preference": self.preference}[name]

    def line_of(self, name: str) -> int:
        """The line of one of its keys, or of the principle where the key is left out."""
        return self.lines.get(name, self.line)

    @property
    def digest(self) -> str:
        """What the principle asks for; its tests have no say in it."""
        return digest([self.id, self.critique, self.revision, self.preference, self.weight])


@dataclass(frozen=True)
class CritiqueExample:
    """A worked critique and revision, for a few-shot prompt."""

    principle: str
    prompt: str
    answer: str
    critique: str
    revision: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ComparisonExample:
    """A worked comparison, for a few-shot prompt; without a principle, every one that judges would agree with it."""

    principle: str
    prompt: str
    better: str
    worse: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Constitution:
    """Principles in the order of their ids, so that the order in the file means nothing anywhere."""

    id: str
    version: str
    title: str
    principles: tuple[Principle, ...]
    critiques: tuple[CritiqueExample, ...] = ()
    comparisons: tuple[ComparisonExample, ...] = ()
    path: str = field(default="", compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def line_of(self, name: str) -> int:
        """The line of one of its keys, or the first."""
        return self.lines.get(name, 1)

    def principle(self, name: str) -> Principle:
        for principle in self.principles:
            if principle.id == name:
                return principle
        ids = [principle.id for principle in self.principles]
        raise InputError(self.path or self.id, "there is no such principle", name, nearest(name, ids))

    def for_use(self, use: Use) -> tuple[Principle, ...]:
        """The principles that have the texts which this use needs."""
        return tuple(principle for principle in self.principles if principle.serves(use))

    def shares(self, use: Use) -> dict[str, float]:
        """How much of all draws, or of the judgement, falls to each principle that serves this use."""
        principles = self.for_use(use)
        total = math.fsum(principle.weight for principle in principles)
        return {principle.id: principle.weight / total for principle in principles}

    @property
    def behaviour_digest(self) -> str:
        """Changes with whatever can change a model's behaviour: ids, texts, weights and examples of the principles."""
        return digest(
            {
                "principles": sorted(principle.digest for principle in self.principles),
                "critiques": [[e.principle, e.prompt, e.answer, e.critique, e.revision] for e in self.critiques],
                "comparisons": [[e.principle, e.prompt, e.better, e.worse] for e in self.comparisons],
            }
        )

    @property
    def release_digest(self) -> str:
        """Changes with anything an author can say: behaviour, name, version, title and tests."""
        tests = {p.id: sorted(canonical([t.prompt, t.better, t.worse]) for t in p.tests) for p in self.principles}
        return digest([self.behaviour_digest, self.id, self.version, self.title, tests])


def load_constitution(path: Path) -> Constitution:
    """The constitution in this file; what cannot be used is refused by line."""
    from cai.constitution.loading import read_constitution

    return read_constitution(path)


def draw_principle(constitution: Constitution, seed: int, row: str, round_number: int) -> Principle:
    """The principle that this row meets in this round, by weighted rendezvous hashing.

    Each principle has a score of its own, exponential with its weight as the rate, and the smallest wins: so the
    chance of a principle is its share of the weights, a new one takes rows from the others and never moves a row
    between them, and no text has a say in it.
    """
    assert constitution.principles, constitution.path
    return drawn_order(constitution, seed, row, round_number)[0]


def drawn_order(constitution: Constitution, seed: int, row: str, round_number: int) -> tuple[Principle, ...]:
    """All principles as this row draws them one after the other, none twice."""
    scored = [(_score(principle, seed, row, round_number), principle.id) for principle in constitution.principles]
    return tuple(principle for _, principle in sorted(zip(scored, constitution.principles, strict=True)))


def nearest(word: str, known: Sequence[str]) -> str:
    """A remedy for a name that is not known: the closest one, or the list."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"


def _score(principle: Principle, seed: int, row: str, round_number: int) -> float:
    # 1 - u lies in (0, 1], where the logarithm is finite.
    u = uniform(derive("principle", seed, row, round_number, principle.id), 0)
    return -math.log1p(-u) / principle.weight
