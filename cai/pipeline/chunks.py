"""Work in chunks: each chunk's records and rejects are committed together, and a chunk that is there is never redone.

What a chunk is and does is the stage's; that all inputs of the stage ended somewhere is checked here from the files.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from cai.errors import CaiError, DamagedFile, Interrupted, OutOfMemory
from cai.feedback.outcome import Identified
from cai.files import write_atomic
from cai.journal import Journal, read_lines
from cai.models.local.width import USUAL, AtOnce
from cai.models.protocol import RowError
from cai.pipeline.calls import STREAM as CALLS
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, Finished
from cai.records import Reject, to_line

Row = TypeVar("Row", bound=Identified)

PLAN = "plan.json"
"""Holds what a stage learned about this machine and must keep to when it goes on."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one chunk. `inputs` is counted before the work, by someone else than who counts the records."""

    inputs: int
    records: Sequence[object]
    rejects: Sequence[Reject] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, int] = field(default_factory=dict)
    """Counts that say nothing by themselves: a stage makes sentences of their sums."""


Watch = Callable[[Mapping[str, int], int], str]
"""From the figures so far and the number of rows to a warning, or to nothing."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`size` is only for progress; `work` is called when the chunk is not there yet."""

    size: int
    work: Callable[[], Made]


def chunked(stage: str, rows: Sequence[Row], size: int, work: Callable[[Sequence[Row]], Made]) -> list[Chunk]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [Chunk(len(part), partial(_surviving, stage, part, work)) for part in parts]


def work_in_chunks(
    name: str,
    chunks: Sequence[Chunk],
    folder: Path,
    desk: Desk,
    *,
    watch: Watch | None = None,
    recalls: bool = False,
) -> Generator[Event, None, Finished]:
    """Every chunk that is not there yet, and the stage's ledger from the files. `watch` warns once, after a chunk.

    With `recalls` nothing is asked that this run's other folders hold already.
    """
    warned = False
    total = sum(chunk.size for chunk in chunks)
    streams = ("records", "rejects", *([CALLS] if recalls else []))
    with Journal(folder, streams) as journal, desk.recalling(folder if recalls else None) as calls:
        desk.take_at_once(_planned(folder) or (USUAL if journal.chunks else None))
        done = sum(chunk.size for chunk in chunks[: journal.chunks])
        if done:
            yield _progress(name, done, total, journal.notes)
        for chunk in chunks[journal.chunks :]:
            if desk.stop():
                raise Interrupted(f"{name}: stopped after {done} of {total}; the same command goes on from here")
            made = yield from _worked(name, chunk, folder, desk)
            _plan(folder, desk.at_once())
            lines = {"records": [to_line(r) for r in made.records], "rejects": [to_line(r) for r in made.rejects]}
            lines |= {CALLS: calls.taken()} if calls else {}
            reasons = Counter(reject.reason for reject in made.rejects)
            more = {"figures": dict(made.figures)} if made.figures else {}
            told = {"inputs": made.inputs, "rejects": dict(reasons), "notes": dict(made.notes)}
            journal.commit(lines, {**told, **more})
            done += chunk.size
            yield _progress(name, done, total, journal.notes)
            if watch and not warned and (warning := watch(_summed(journal.notes, "figures"), total)):
                warned = True
                yield Event("notice", name, {"text": warning})
        notes = journal.notes
    if calls and calls.recalled:
        text = f"{calls.recalled} calls of the model were made before, in another folder of this run, and not again"
        yield Event("notice", name, {"text": text})
    rejects, counted = _summed(notes, "rejects"), _summed(notes, "notes")
    inputs = sum(cast(int, note["inputs"]) for note in notes)
    facts: dict[str, object] = {"figures": figures} if (figures := _summed(notes, "figures")) else {}
    return balanced(name, folder, Finished(inputs, _count(folder, "records"), rejects, counted, facts))


def _worked(name: str, chunk: Chunk, folder: Path, desk: Desk) -> Generator[Event, None, Made]:
    """One chunk's work, with fewer rows at once where memory does not suffice.

    Nothing kept from another chunk is used, since a resumed run has none of it; and a smaller batch is written down
    before it is tried, since a resumed run must use it too.
    """
    while True:
        desk.forget()
        try:
            return chunk.work()
        except OutOfMemory as error:
            smaller = (desk.at_once() or AtOnce(rows=error.rows)).halved()
            if smaller.rows < 1:
                raise
            _write_plan(folder, smaller)
            desk.take_at_once(smaller)
            text = f"{error.device} is out of memory; going on with {smaller.rows} rows at once"
            yield Event("notice", name, {"text": text})


def _planned(folder: Path) -> AtOnce | None:
    """How much at once an earlier part of this stage found to fit."""
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan = json.loads(path.read_text("utf-8"))
        return AtOnce(int(plan["rows_at_once"]), int(plan.get("tokens_at_once", USUAL.tokens)))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(str(path), "is no plan of this stage", None, "remove the file and run again") from error


def _plan(folder: Path, at_once: AtOnce | None) -> None:
    """Write down what was found to fit before the first chunk is committed, where it is not what is usual: when the
    stage goes on there may be more room, or less."""
    if at_once is not None and at_once != USUAL and not (folder / PLAN).exists():
        _write_plan(folder, at_once)


def _write_plan(folder: Path, at_once: AtOnce) -> None:
    plan = {"rows_at_once": at_once.rows, "tokens_at_once": at_once.tokens}
    write_atomic(folder / PLAN, json.dumps(plan) + "\n")


def balanced(name: str, folder: Path, finished: Finished) -> Finished:
    """The same, if every input is an output or a reject, and the files say so too."""
    rejects = sum(finished.rejects.values())
    on_disk = (_count(folder, "records"), _count(folder, "rejects"))
    if finished.inputs != finished.outputs + rejects or on_disk != (finished.outputs, rejects):
        raise CaiError(
            f"{name}: {finished.inputs} inputs became {finished.outputs} records and {rejects} rejects, and the files "
            f"hold {on_disk[0]} and {on_disk[1]}; rows were lost or doubled, which is an error in this program"
        )
    return finished


def _surviving(stage: str, rows: Sequence[Row], work: Callable[[Sequence[Row]], Made]) -> Made:
    """The work done on all rows at once; where one of them cannot become tokens, on halves, until it stands alone."""
    try:
        return work(rows)
    except RowError as error:
        if len(rows) == 1:
            return Made(1, [], [Reject(rows[0].id, stage, error.reason, error.detail)])
    half = len(rows) // 2
    first, second = (_surviving(stage, part, work) for part in (rows[:half], rows[half:]))
    notes, figures = Counter(first.notes) + Counter(second.notes), Counter(first.figures) + Counter(second.figures)
    records, rejects = [*first.records, *second.records], [*first.rejects, *second.rejects]
    return Made(first.inputs + second.inputs, records, rejects, notes, figures)


def _count(folder: Path, stream: str) -> int:
    return sum(1 for _ in read_lines(folder / f"{stream}.jsonl"))


def _progress(name: str, done: int, total: int, notes: Iterable[Mapping[str, object]]) -> Event:
    rejects = sum(sum(cast(dict[str, int], note["rejects"]).values()) for note in notes)
    return Event("progress", name, {"done": done, "total": total, "rejects": rejects})


def _summed(notes: Iterable[Mapping[str, object]], key: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for note in notes:
        total.update(cast(dict[str, int], note.get(key, {})))
    return dict(sorted(total.items()))
