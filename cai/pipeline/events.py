"""What a run tells while it works, and what a stage hands back when it is done.

Events are for eyes and for `events.jsonl`; nothing that decides a result is read from them.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal[
    "run_started",
    "stage_started",
    "stage_skipped",
    "progress",
    "metrics",
    "notice",
    "stage_finished",
    "run_finished",
]


@dataclass(frozen=True, slots=True)
class Event:
    """`progress` and `metrics` have `done` and `total`; `stage` is empty where the whole run is meant."""

    kind: EventKind
    stage: str = ""
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """A stage's ledger: every input is an output or a reject with a reason; `notes` are other counts worth telling."""

    inputs: int
    outputs: int
    rejects: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    """What else the manifest is to say."""


StageEvents = Generator[Event, None, Finished]
