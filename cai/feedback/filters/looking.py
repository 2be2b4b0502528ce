"""What every filter sees of a row, and what it says about one: the seam between `sifting` and the filters."""

from collections.abc import Callable
from dataclasses import dataclass

from cai.records import Preference, Prompt, Revision
from cai.store.formats.rows import Answered

Row = Preference | Answered | Revision


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a row should go: `reason` is short and counted by, `detail` is for people."""

    reason: str
    detail: str


Sieve = Callable[[Row], Finding | None]
"""Looks at rows in their order, once each; it may remember those before."""


def answers_of(row: Row) -> dict[str, str]:
    """The row's answers by the name of their field, the one to learn first."""
    match row:
        case Preference():
            return {"chosen": row.chosen, "rejected": row.rejected}
        case Revision():
            between = {f"round {i}": turn.revision for i, turn in enumerate(row.rounds[:-1], 1)}
            return {"final": row.final, **between, "initial": row.initial}
        case Answered():
            return {"completion": row.completion}


def prompt_of(row: Row) -> str:
    """All that was said before the answer."""
    return "\n".join(message.content for message in row.prompt.messages)


def asked_in(prompt: Prompt) -> str:
    """What the user said last."""
    return next((m.content for m in reversed(prompt.messages) if m.role == "user"), "")
