"""A pilot: what it runs, what it says of the whole, and that nothing of it is asked again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.journal import read_lines
from cai.pipeline.pilot import Watch, forecast, pilot_of
from cai.pipeline.runner import Event, run_pipeline
from cai.pipeline.spec import Pipeline

Small = Callable[..., Pipeline]
REVISED = "stages=[{revise: {rounds: 1}}, {prefer: {unconfirmed: keep}}, sft, evaluate]"


def folders(events: list[Event]) -> list[str]:
    return [str(event.data["folder"]) for event in events if event.kind == "stage_finished"]


def test_a_pilot_takes_the_first_prompts_up_to_the_first_training(small: Small) -> None:
    whole = small("prompts.train.limit=40", REVISED)
    pilot = pilot_of(whole, 8)
    assert pilot.train == whole.train[:8]
    assert [(stage.name, stage.config.chunk) for stage in pilot.stages] == [("01-revise", 2), ("02-prefer", 2)]


def test_what_cannot_be_piloted_is_refused(small: Small) -> None:
    with pytest.raises(InputError, match=r"--pilot: needs at least 8 prompts to tell anything, got 4"):
        pilot_of(small("prompts.train.limit=40", REVISED), 4)


def test_the_whole_run_is_told_in_proportion_and_asks_nothing_of_the_pilot_again(small: Small, tmp_path: Path) -> None:
    """8 of 40 prompts: rows, tokens and time of the whole are five times those of the pilot."""
    whole = small("prompts.train.limit=40", REVISED)
    pilot, watch = pilot_of(whole, 8), Watch()
    events = list(watch.over(run_pipeline(pilot, tmp_path / "run")))
    found = forecast(whole, pilot, tmp_path / "run", watch, folders(events))
    assert (found.prompts, found.of, found.untimed) == (8, 40, ("03-sft", "04-evaluate"))
    revise, prefer = found.stages
    assert (revise.piloted, revise.rows) == (8, 40)
    assert prefer.rows == 5 * prefer.piloted
    assert len(watch.seconds["01-revise"]) == 3, "four chunks, and the first one warms up"
    assert revise.seconds is not None
    mean = sum(seconds / rows for rows, seconds in watch.seconds["01-revise"]) / 3
    assert revise.seconds.low <= 40 * mean <= revise.seconds.high
    assert revise.tokens_read > 0
    assert revise.tokens_written > 0
    assert prefer.tokens_written == 0, "a judge that does not reason writes nothing"
    assert found.consistency is not None
    assert 0 <= found.consistency <= 1

    (calls,) = (tmp_path / "run").glob("stages/01-*/calls.jsonl")
    asked_before = sum(1 for _ in read_lines(calls))
    assert asked_before > revise.piloted
    rest = small("prompts.train.limit=40", "stages=[{revise: {rounds: 1}}]")
    told = [str(e.data["text"]) for e in run_pipeline(rest, tmp_path / "run") if e.kind == "notice"]
    assert any(text.startswith(f"{asked_before} calls of the model were made before") for text in told), told
