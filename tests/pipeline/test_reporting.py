"""Curves for other tools: what they are told, and what is said where their package is missing."""

import importlib.util
import json
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.journal import read_lines
from cai.manifest import verify_manifest
from cai.pipeline.alone import order_of
from cai.pipeline.events import Event
from cai.pipeline.reporting import scalars
from tests.pipeline.trainings import asked, trained


def test_only_updates_have_something_to_draw() -> None:
    metrics = Event("metrics", "dpo", {"done": 3, "total": 9, "metrics": {"loss": 1, "kl": 0.5}})
    assert scalars(metrics) == (3, {"loss": 1.0, "kl": 0.5})
    for event in (Event("progress", "dpo", {"done": 3, "total": 9}), Event("notice", "dpo", {"text": "careful"})):
        assert scalars(event) == (0, {})


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_package_that_is_not_there_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=rf"{kind} is not installed; install it with: pip install 'cai\[{kind}\]'"):
        order_of(asked("sft", tmp_path / "out", report_to=kind))
    assert not (tmp_path / "out").exists()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in read_lines(folder / "metrics.jsonl")]


def test_tensorboard_reads_the_curve_of_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    trained(asked("sft", tmp_path / "out", report_to="tensorboard"))
    verify_manifest(tmp_path / "out")
    [file] = (tmp_path / "out" / "tensorboard").iterdir()
    told = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    found = {step: value.tensor.float_val[0] for step, value in told if value.tag == "sft/loss"}
    assert found == {step: pytest.approx(loss) for step, loss in enumerate(losses(tmp_path / "out"), 1)}


def test_wandb_is_told_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trained(asked("sft", tmp_path / "out", report_to="wandb"))
    verify_manifest(tmp_path / "out")
    assert list((tmp_path / "out" / ".wandb").rglob("*.wandb"))
