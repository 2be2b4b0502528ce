"""How a training alone looks from outside, at every moment of its life."""

import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cai.errors import Interrupted
from cai.files import folder_lock
from cai.pipeline.alone import order_of, train_alone
from cai.pipeline.trained_state import TrainingState, read_state
from tests.pipeline.trainings import SHORT, asked, never, trained

LONGER = ("batch_size=4", "epochs=3", "holdout=0.2", "probe_every=2", "best=eval/loss")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Stopped in good order after its fifth update of twelve."""
    asked_for = count(1)
    with pytest.raises(Interrupted, match="after update 5 of 12"):
        list(train_alone(order_of(asked("sft", tmp_path / "out", *LONGER)), lambda: next(asked_for) == 6))
    return tmp_path / "out"


def test_one_that_is_done_says_what_it_measured(made: Callable[[str], Path]) -> None:
    state = read_state(made("grpo"))
    assert (state.method, state.data, state.state, state.process) == ("grpo", "prompts.jsonl", "done", None)
    assert state.done == state.total == 2
    assert {"loss", "reward", "entropy, in nats a token"} <= state.metrics.keys()
    assert state.metrics["reward"][1] == state.last["reward"]
    assert (state.alarms, state.best, state.checkpoint, state.error) == ((), None, 2, "")


def test_one_that_was_stopped_says_how_far_it_is_and_what_goes_on_with_it(stopped: Path) -> None:
    state = read_state(stopped)
    assert (state.state, state.done, state.total, state.checkpoint) == ("interrupted", 5, 12, 5)
    assert state.best is not None and (state.best_by, state.best.number) == ("eval/loss", 4)
    words = shlex.split(state.command)
    assert words[:3] == ["cai", "train", "sft"]
    said = list(zip(words[3::2], words[4::2], strict=True))
    settings = [("--set", change) for change in ("epochs=1", "batch_size=10", *LONGER)]
    assert sorted(said[1:]) == sorted([("--model", "tiny"), ("--out", str(stopped)), *settings])
    assert said[0][0] == "--data" and said[0][1].endswith("sft.jsonl")
    trained(asked("sft", stopped, *LONGER))
    assert (read_state(stopped).state, read_state(stopped).done) == ("done", 12)


def test_one_that_is_held_is_running_and_one_whose_owner_is_gone_is_not(stopped: Path) -> None:
    with folder_lock(stopped):
        state = read_state(stopped)
    assert (state.state, state.process) == ("running", os.getpid())
    with open(stopped / "events.jsonl", "a", encoding="utf-8") as events:
        events.write('{"time": 1, "kind": "run_finished", "stage": "", "data": {}}\n')
    assert read_state(stopped).state == "interrupted", "without a manifest it is not done, whatever it told"


def test_one_that_has_only_begun_has_measured_nothing(stopped: Path) -> None:
    for path in (stopped / "events.jsonl", stopped / "metrics.jsonl"):
        path.unlink()
    shutil.rmtree(stopped / "checkpoints")
    state = read_state(stopped)
    nothing = replace(
        state, state="waiting", done=0, total=0, metrics={}, last={}, alarms=(), best=None, checkpoint=None, command=""
    )
    assert state == nothing


def test_its_alarms_are_those_that_it_told(tmp_path: Path) -> None:
    ask = asked("sft", tmp_path / "out", "batch_size=2", "epochs=3", "learning_rate=1", "on_alarm=pause")
    told: list[str] = []
    with pytest.raises(Interrupted, match="paused after update"):
        told += (str(event.data["text"]) for event in train_alone(order_of(ask), never) if event.kind == "notice")
    state: TrainingState = read_state(tmp_path / "out")
    assert state.alarms and state.alarms[0].step == state.done == state.checkpoint
    assert [f"{alarm.evidence} {alarm.advice}" for alarm in state.alarms] == told


def test_every_part_of_a_command_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "my out"
    ask = asked(
        "ppo", out, "seed=3", rewards=("a=trained/one*0.5", SHORT), start="quickstart/sft", quantization="none",
        precision="fp32", template="chatml", layout="prompts", max_tokens=64, report_to="wandb",
    )  # fmt: skip
    words = shlex.split(ask.command)
    pairs = [*zip(words[3::2], words[4::2], strict=True)]
    assert [value for name, value in pairs if name == "--reward"] == ["a=trained/one*0.5", SHORT]
    assert ("--set", "seed=3") in pairs and ("--out", str(out)) in pairs
    assert {
        ("--from", "quickstart/sft"), ("--quantization", "none"), ("--precision", "fp32"), ("--template", "chatml"),
        ("--as", "prompts"), ("--max-tokens", "64"), ("--report-to", "wandb"),
    } <= set(pairs)  # fmt: skip
