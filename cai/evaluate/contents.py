"""What a report says, as values: filled by the evaluate stage, written as JSON and as a page by `report`.

Every collection is in the order in which it is shown. Nothing here holds a time, so equal runs give equal reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cai.evaluate.compare import MetricRow
from cai.evaluate.judging import JudgeFacts


@dataclass(frozen=True, slots=True)
class PrincipleRow:
    """One principle and what it did: how often it was drawn and changed an answer, and how it judged."""

    id: str
    text: str
    drawn: int = 0
    changed: int = 0
    judged: int = 0
    mean_p: float | None = None
    """Mean of p for the answer that was chosen in the end: how far this principle agreed with the verdict."""
    ties: int = 0
    contradictions: int = 0

    @property
    def share_changed(self) -> float | None:
        return self.changed / self.drawn if self.drawn else None


@dataclass(frozen=True, slots=True)
class ConstitutionFacts:
    id: str
    version: str
    digest: str
    """The behaviour digest."""
    title: str
    principles: tuple[PrincipleRow, ...]


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage's ledger: every input is an output or a reject with a reason."""

    number: int
    kind: str
    digest: str
    inputs: int
    outputs: int
    rejects: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """Other counts worth showing, such as null edits, ties, steps."""
    told: tuple[str, ...] = ()
    """What the stage's figures come to, a sentence each."""

    @property
    def balanced(self) -> bool:
        return self.inputs == self.outputs + sum(self.rejects.values())


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """What one training stage logged: one mapping for each step, each with `step`."""

    number: int
    kind: str
    steps: tuple[dict[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`words` says in plain words what the answer does, `good` whether that is what was wanted."""

    text: str
    flags: dict[str, bool]
    words: str
    good: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out request and each model's answer to it."""

    prompt: str
    label: str
    answers: dict[str, Answer]


@dataclass(frozen=True, slots=True)
class RevisionExample:
    prompt: str
    initial: str
    principle_id: str
    critique: str
    revision: str


@dataclass(frozen=True, slots=True)
class ReportData:
    run: str
    constitution: ConstitutionFacts
    model: dict[str, object]
    """`base` and whatever else the workbench knows of it; JSON values."""
    metrics: tuple[MetricRow, ...]
    stages: tuple[StageRow, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    examples: tuple[Example, ...] = ()
    revisions: tuple[RevisionExample, ...] = ()
    judge: JudgeFacts | None = None
    command: str = ""
    """What to type for the same run again."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What has to be equal for the result to be equal: name to digest."""
