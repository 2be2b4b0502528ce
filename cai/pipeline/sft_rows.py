"""Which answers supervised fine-tuning learns from: revisions, and helpful answers beside them.

A prompt whose answer some critic had changed gives its revision. A prompt whose answer no critic changed gives that
answer as a helpful one; a share of these is drawn, so that the model does not learn that every answer is to be turned
down. An answer that was changed and then changed back is neither. Encoding belongs to the stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cai.feedback.clean import folded
from cai.pipeline.alone_rows import read_data
from cai.pipeline.training_configs import SftStageConfig
from cai.records import Prompt, Reject, Revision, content_id
from cai.seeds import derive, shuffled

Kind = Literal["revision", "helpful", "given"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer to learn; `revision_id` says which record it was taken from, where it was from one."""

    id: str
    prompt: Prompt
    completion: str
    kind: Kind
    revision_id: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Every candidate is in one of the two."""

    examples: list[Example]
    rejects: list[Reject]


def select_examples(
    revisions: Sequence[Revision], config: SftStageConfig, seed: int, file: Path | None = None
) -> Selection:
    selection = _given(file) if file else Selection([], [])
    drawn = _drawn_helpful(revisions, config.helpful, seed)
    seen = {example.id for example in selection.examples}
    for revision in revisions:
        for example in _candidates(revision, config):
            if example.kind == "helpful" and revision.id not in drawn:
                reject = Reject(example.id, "sft", "helpful answer not drawn", f"helpful is {config.helpful:g}")
                selection.rejects.append(reject)
            elif folded(example.completion) == folded(revision.initial) and example.kind == "revision":
                detail = f"revision {revision.id} ended where it began"
                selection.rejects.append(Reject(example.id, "sft", "changed and changed back", detail))
            elif example.id in seen:
                selection.rejects.append(Reject(example.id, "sft", "duplicate row", "the same row stands earlier"))
            else:
                seen.add(example.id)
                selection.examples.append(example)
    return selection


def _given(file: Path) -> Selection:
    """The answers that the user brought."""
    reading = read_data(file, "", "sft", "answers")
    given = [
        Example(content_id("sft", row.prompt.id, row.texts[0]), row.prompt, row.texts[0], "given", "")
        for row in reading.candidates
    ]
    return Selection(given, [replace(reject, stage="sft") for reject in reading.rejects])


def _candidates(revision: Revision, config: SftStageConfig) -> list[Example]:
    changed = [r.revision for r in revision.rounds if r.changed]
    if not changed:
        return [_example(revision, revision.initial, "helpful")]
    texts = changed if config.revisions == "all" else [revision.final]
    return [_example(revision, text, "revision") for text in texts]


def _example(revision: Revision, text: str, kind: Kind) -> Example:
    return Example(content_id("sft", revision.prompt.id, text), revision.prompt, text, kind, revision.id)


def _drawn_helpful(revisions: Sequence[Revision], helpful: float, seed: int) -> set[str]:
    """Revision ids whose unchanged answers are learned from: a share of them, or a count."""
    unchanged = [r.id for r in revisions if not any(turn.changed for turn in r.rounds)]
    wanted = round(helpful * len(unchanged)) if helpful <= 1 else int(helpful)
    return set(shuffled(unchanged, derive(seed, "helpful"))[:wanted])
