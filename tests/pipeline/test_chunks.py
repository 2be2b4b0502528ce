"""Chunked work: resumed without redoing, rows that cannot become tokens rejected alone, and no row ever lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from cai.errors import CaiError, Interrupted
from cai.journal import read_lines
from cai.models.protocol import RowError
from cai.pipeline.chunks import Chunk, Made, chunked, work_in_chunks
from cai.pipeline.events import Event, Finished, StageEvents
from cai.records import Reject


@dataclass(frozen=True)
class Row:
    id: str


ROWS = [Row(f"row-{i}") for i in range(10)]


def never() -> bool:
    return False


def finish(run: StageEvents) -> tuple[list[Event], Finished]:
    events: list[Event] = []

    def through() -> Iterator[Event]:
        ledger.append((yield from run))

    ledger: list[Finished] = []
    events.extend(through())
    return events, ledger[0]


def keep(rows: Sequence[Row]) -> Made:
    return Made(len(rows), rows, notes={"seen": len(rows)})


def test_all_rows_come_through_in_order_and_are_counted(tmp_path: Path) -> None:
    events, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 4, keep), tmp_path, never))
    assert [(e.data["done"], e.data["total"]) for e in events] == [(4, 10), (8, 10), (10, 10)]
    assert ledger == Finished(10, 10, {}, {"seen": 10})
    assert list(read_lines(tmp_path / "records.jsonl")) == [f'{{"id":"{row.id}"}}' for row in ROWS]


def test_what_is_committed_is_never_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def note(rows: Sequence[Row]) -> Made:
        done.extend(row.id for row in rows)
        return keep(rows)

    asked = count()
    with pytest.raises(Interrupted, match=r"01-x: stopped after 8 of 10; the same command goes on from here"):
        finish(work_in_chunks("01-x", chunked("x", ROWS, 4, note), tmp_path, lambda: next(asked) == 2))
    events, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 4, note), tmp_path, never))
    assert done == [row.id for row in ROWS]
    assert [e.data["done"] for e in events] == [8, 10]
    assert ledger.outputs == 10


def test_rows_that_cannot_become_tokens_are_rejected_and_the_others_survive(tmp_path: Path) -> None:
    def refuse_two(rows: Sequence[Row]) -> Made:
        for row in rows:
            if row.id in ("row-3", "row-4"):
                raise RowError("too long", f"{row.id} is")
        return keep(rows)

    _, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 8, refuse_two), tmp_path, never))
    assert ledger == Finished(10, 8, {"too long": 2}, {"seen": 8})
    assert (
        '"id":"row-3","stage":"x","reason":"too long","detail":"row-3 is"' in (tmp_path / "rejects.jsonl").read_text()
    )


def test_a_lost_row_is_an_error(tmp_path: Path) -> None:
    def lose_one(rows: Sequence[Row]) -> Made:
        return Made(len(rows), rows[1:])

    with pytest.raises(CaiError, match="10 inputs became 7 records and 0 rejects"):
        finish(work_in_chunks("01-x", chunked("x", ROWS, 4, lose_one), tmp_path, never))


def test_a_doubled_row_is_an_error(tmp_path: Path) -> None:
    def both_ways() -> Made:
        return Made(1, ROWS[:1], [Reject("row-0", "x", "doubled", "")])

    with pytest.raises(CaiError, match="rows were lost or doubled"):
        finish(work_in_chunks("01-x", [Chunk(1, both_ways)], tmp_path, never))
