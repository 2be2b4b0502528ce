"""What both training stages do around a trainer: encode rows, write the ledger, and tell the steps.

The trainers live in `train` and know nothing of stages.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cai.files import write_atomic
from cai.models.protocol import RowError
from cai.pipeline.chunks import balanced
from cai.pipeline.events import Event, Finished
from cai.records import Prompt, Reject, to_line

if TYPE_CHECKING:
    from cai.models.local.logprobs import TokenRow
    from cai.models.local.workbench import Workbench
    from cai.train.optimise import Step


@dataclass(frozen=True, slots=True)
class PairUsed:
    """A pair that was trained on; the preference itself is in the stage that judged it."""

    id: str
    p_chosen: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row's tokens, or why it has none."""

    row: "TokenRow | None"
    reason: str = ""
    detail: str = ""

    @classmethod
    def of(cls, workbench: "Workbench", prompt: Prompt, completion: str) -> Self:
        try:
            return cls(workbench.encode(prompt.messages, completion, prompt.tools))
        except RowError as error:
            return cls(None, error.reason, error.detail)


def written(
    name: str, folder: Path, inputs: int, records: Sequence[object], rejects: Sequence[Reject], notes: Mapping[str, int]
) -> Finished:
    """The rows that are trained on, and those that are not, as files; the same bytes whenever this is done again."""
    for stream, lines in (("records", records), ("rejects", rejects)):
        write_atomic(folder / f"{stream}.jsonl", "".join(f"{to_line(line)}\n" for line in lines))
    reasons = dict(sorted(Counter(reject.reason for reject in rejects).items()))
    return balanced(name, folder, Finished(inputs, len(records), reasons, dict(notes)))


def told(name: str, steps: "Iterator[Step]") -> Iterator[Event]:
    """Each training step as an event."""
    for step in steps:
        if step.notice:
            yield Event("notice", name, {"text": step.notice})
        if step.metrics:
            yield Event("metrics", name, {"done": step.number, "total": step.total, "metrics": step.metrics})
