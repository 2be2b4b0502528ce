"""How a constitution stands in its file: the keys and their types, and nothing about what makes the values good.

`model` turns this into values and refuses what cannot be used; `docs/constitutions.md` explains it to authors.
"""

from pydantic import BaseModel, ConfigDict, Field


class TestEntry(BaseModel):
    """A prompt with a better and a worse answer, as this principle sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    better: str
    worse: str


class PrincipleEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    critique: str = ""
    """What the critic is asked about the last answer."""
    revision: str = ""
    """What the reviser is asked to do with it."""
    preference: str = ""
    """What the judge is asked about two answers."""
    weight: float = 1.0
    """How often the principle is drawn, and how much its judgement counts, relative to the others."""
    tests: list[TestEntry] = Field(default_factory=list)


class CritiqueEntry(BaseModel):
    """A worked critique and revision by one principle, shown to the critic before the real one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principle: str
    prompt: str
    answer: str
    critique: str
    revision: str


class ComparisonEntry(BaseModel):
    """A worked comparison by one principle, shown to the judge before the real one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principle: str = ""
    """Where it is left out, one is drawn for each run."""
    prompt: str
    better: str
    worse: str


class ExampleEntries(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    critiques: list[CritiqueEntry] = Field(default_factory=list)
    comparisons: list[ComparisonEntry] = Field(default_factory=list)


class ConstitutionFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    version: str
    title: str = ""
    principles: list[PrincipleEntry]
    examples: ExampleEntries = ExampleEntries()
