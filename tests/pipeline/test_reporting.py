"""Curves for other tools: what they are told, and what is said where their package is missing."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from cai.errors import InputError, Interrupted
from cai.journal import read_lines
from cai.manifest import verify_manifest
from cai.pipeline.alone import order_of
from cai.pipeline.configs import KINDS
from cai.pipeline.events import Event
from cai.pipeline.reporting import scalars
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.training_configs import LEARNING
from tests.pipeline.trainings import asked, trained

REPORTED = "stages.2.sft.report_to=tensorboard"
STAND_IN = """
import json, pathlib

class Writer:
    def __init__(self, folder):
        self.file = pathlib.Path(folder) / "told.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.lines = []

    def add_scalar(self, tag, value, step):
        self.lines.append(json.dumps([tag, step, value]))

    def flush(self):
        with open(self.file, "a") as file:
            file.writelines(line + chr(10) for line in self.lines)
        self.lines = []

    def close(self):
        self.flush()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `tensorboard` that writes plain lines, so that the way to it is tested where there is none."""
    (tmp_path / "site" / "tensorboard").mkdir(parents=True)
    (tmp_path / "site" / "tensorboard" / "__init__.py").touch()
    (tmp_path / "site" / "tensorboard" / "summary.py").write_text(STAND_IN)
    names = ("tensorboard", "tensorboard.summary")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in names:
        sys.modules.pop(name, None)


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


def stages_of(run: Path) -> dict[str, bytes]:
    files = (path for path in (run / "stages").rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def test_every_training_stage_can_be_reported_and_no_other() -> None:
    assert [kind for kind, config in KINDS.items() if "report_to" in config.model_fields] == [
        kind for kind in KINDS if kind in LEARNING
    ]


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_stage_that_nothing_can_be_reported_of_is_refused_by_its_line(
    small: Callable[..., Pipeline], small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path = tmp_path / "asked.yaml"
    path.write_text(small_file.read_text("utf-8").replace("sft: {", f"sft: {{report_to: {kind}, "), "utf-8")
    line = next(i for i, text in enumerate(path.read_text("utf-8").splitlines(), 1) if "sft: {" in text)
    told = rf"{kind} is not installed; install it with: pip install 'cai\[{kind}\]', or leave report_to out"
    with pytest.raises(InputError, match=rf"asked\.yaml:{line}:\d+: the package {told}"):
        load_pipeline(path)
    with pytest.raises(InputError, match=rf"--set stages\.4\.dpo\.report_to={kind}: the package {told}"):
        small(f"stages.4.dpo.report_to={kind}")


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_is_done_stays_done_when_it_is_to_be_reported(copied: Path, small: Callable[..., Pipeline]) -> None:
    before = stages_of(copied)
    kinds = [event.kind for event in run_pipeline(small(REPORTED), copied)]
    assert kinds.count("stage_skipped") == 6 and "stage_started" not in kinds
    assert stages_of(copied) == before and not (copied / "tensorboard").exists()


@pytest.mark.usefixtures("stand_in")
def test_a_stage_that_goes_on_goes_on_with_its_curve_and_ends_in_the_bytes_of_one_that_nobody_drew(
    finished: Path, copied: Path, small: Callable[..., Pipeline]
) -> None:
    for folder in (copied / "stages").glob("0[3-6]-*"):
        shutil.rmtree(folder)
    asked_for = count(1)
    with pytest.raises(Interrupted):
        list(run_pipeline(small(REPORTED), copied, lambda: next(asked_for) == 4))
    [told] = (copied / "tensorboard").rglob("told.jsonl")
    assert told.parent.name.startswith("03-sft-") and (copied / "stages" / told.parent.name).is_dir()
    losses_told = [json.loads(line) for line in read_lines(told) if "sft/loss" in line]
    assert [step for _, step, _ in losses_told] == [1, 2]
    list(run_pipeline(small(REPORTED), copied))
    drawn = [value for tag, _, value in map(json.loads, read_lines(told)) if tag == "03-sft/loss"]
    assert drawn == losses(copied / "stages" / told.parent.name)
    assert stages_of(copied) == stages_of(finished)
    assert [path.name for path in (copied / "tensorboard").iterdir()] == [told.parent.name]


def test_tensorboard_reads_the_curve_of_a_stage(copied: Path, small: Callable[..., Pipeline]) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for folder in (copied / "stages").glob("0[3-6]-*"):
        shutil.rmtree(folder)
    list(run_pipeline(small(REPORTED), copied))
    [file] = (path for path in (copied / "tensorboard").rglob("*") if path.is_file())
    told = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    found = {step: value.tensor.float_val[0] for step, value in told if value.tag == "03-sft/loss"}
    own = losses(copied / "stages" / file.parent.name)
    assert found == {step: pytest.approx(loss) for step, loss in enumerate(own, 1)}
