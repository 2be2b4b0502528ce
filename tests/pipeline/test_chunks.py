"""Chunked work: resumed without redoing, rows that cannot become tokens rejected alone, and no row ever lost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from cai.errors import CaiError, Interrupted, OutOfMemory
from cai.journal import read_lines
from cai.models.local.spec import ModelSpec
from cai.models.local.width import USUAL, AtOnce
from cai.models.protocol import RowError
from cai.pipeline.chunks import Chunk, Made, chunked, work_in_chunks
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, Finished, StageEvents
from cai.records import Reject


@dataclass(frozen=True)
class Row:
    id: str


ROWS = [Row(f"row-{i}") for i in range(10)]


def never() -> bool:
    return False


def desk(stop: Callable[[], bool] = never) -> Desk:
    return Desk(ModelSpec("tiny"), {}, Path(), stop)


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
    events, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 4, keep), tmp_path, desk()))
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
        finish(work_in_chunks("01-x", chunked("x", ROWS, 4, note), tmp_path, desk(lambda: next(asked) == 2)))
    events, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 4, note), tmp_path, desk()))
    assert done == [row.id for row in ROWS]
    assert [e.data["done"] for e in events] == [8, 10]
    assert ledger.outputs == 10


def test_rows_that_cannot_become_tokens_are_rejected_and_the_others_survive(tmp_path: Path) -> None:
    def refuse_two(rows: Sequence[Row]) -> Made:
        for row in rows:
            if row.id in ("row-3", "row-4"):
                raise RowError("too long", f"{row.id} is")
        return keep(rows)

    _, ledger = finish(work_in_chunks("01-x", chunked("x", ROWS, 8, refuse_two), tmp_path, desk()))
    assert ledger == Finished(10, 8, {"too long": 2}, {"seen": 8})
    assert (
        '"id":"row-3","stage":"x","reason":"too long","detail":"row-3 is"' in (tmp_path / "rejects.jsonl").read_text()
    )


def test_a_lost_row_is_an_error(tmp_path: Path) -> None:
    def lose_one(rows: Sequence[Row]) -> Made:
        return Made(len(rows), rows[1:])

    with pytest.raises(CaiError, match="10 inputs became 7 records and 0 rejects"):
        finish(work_in_chunks("01-x", chunked("x", ROWS, 4, lose_one), tmp_path, desk()))


def test_a_doubled_row_is_an_error(tmp_path: Path) -> None:
    def both_ways() -> Made:
        return Made(1, ROWS[:1], [Reject("row-0", "x", "doubled", "")])

    with pytest.raises(CaiError, match="rows were lost or doubled"):
        finish(work_in_chunks("01-x", [Chunk(1, both_ways)], tmp_path, desk()))


def at_once(own: Desk) -> AtOnce:
    """What the model takes once it is loaded."""
    return own.workbench().limits.at_once


def test_a_chunk_without_enough_memory_is_tried_again_with_fewer_rows_and_so_are_all_after_it(tmp_path: Path) -> None:
    own = desk()
    tried: list[tuple[int, int]] = []

    def work(rows: Sequence[Row]) -> Made:
        tried.append((at_once(own).rows, at_once(own).tokens))
        if tried[-1][0] > 16:
            raise OutOfMemory("cuda:0", tried[-1][0])
        return keep(rows)

    chunks = chunked("x", ROWS, 4, work)
    events, ledger = finish(work_in_chunks("01-x", chunks, tmp_path, own))
    fitting = 16, 16_384
    assert tried == [(64, 65_536), (32, 32_768), fitting, fitting, fitting]
    assert ledger.outputs == len(ROWS)
    assert [event.data["text"] for event in events if event.kind == "notice"] == [
        f"cuda:0 is out of memory; going on with {rows} rows at once" for rows in (32, 16)
    ]
    again = desk()
    finish(
        work_in_chunks("01-x", [*chunks, Chunk(0, lambda: tried.append(at_once(again)) or keep([]))], tmp_path, again)
    )
    assert tried[-1] == AtOnce(*fitting), "a stage that goes on keeps to what it found"


def test_a_stage_that_goes_on_keeps_to_the_number_of_rows_that_it_found_to_fit(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"rows_at_once": 8}\n')
    own, tried = desk(), []
    finish(work_in_chunks("01-x", [Chunk(1, lambda: tried.append(at_once(own)) or keep(ROWS[:1]))], tmp_path, own))
    assert tried == [AtOnce(8, 65_536)]


def test_what_fits_by_the_estimate_is_written_down_before_anything_is_kept_and_goes_on_so(tmp_path: Path) -> None:
    """A machine with little memory, and then, when the stage goes on, with more; and the other way round."""
    chunks = chunked("x", ROWS, 4, keep)
    for name, before, after in (("less", AtOnce(64, 4096), USUAL), ("more", USUAL, AtOnce(64, 4096))):
        own, folder = desk(stop=iter((False, True)).__next__), tmp_path / name
        own.workbench().limits.usual = before
        with pytest.raises(Interrupted):
            finish(work_in_chunks("01-x", chunks, folder, own))
        assert (folder / "plan.json").exists() == (before != USUAL)
        again, found = desk(), []
        again.workbench().limits.usual = after
        rest = Chunk(6, lambda again=again, found=found: found.append(at_once(again)) or keep(ROWS[4:]))
        finish(work_in_chunks("01-x", [chunks[0], rest], folder, again))
        assert found == [before]


def test_a_plan_loads_no_model_for_a_stage_that_asks_none(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"rows_at_once": 8}\n')
    own = desk()
    finish(work_in_chunks("01-x", chunked("x", ROWS, 4, keep), tmp_path, own))
    assert own.at_once() is None


def test_what_does_not_fit_even_alone_ends_the_stage(tmp_path: Path) -> None:
    def work() -> Made:
        raise OutOfMemory("cuda:0", 1)

    with pytest.raises(OutOfMemory, match="out of memory with 1 rows"):
        finish(work_in_chunks("01-x", [Chunk(1, work)], tmp_path, desk()))
