"""`cai train`: what it shows, what it tells programs, how it is stopped, and that the guide's commands run."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from cai.cli.train import MethodName
from cai.pipeline.alone import METHODS
from tests.cli.conftest import ENVIRONMENT, TESTS, Cai, cai_in

ROOT = TESTS.parent
SFT = ("train", "sft", "--model", "tiny", "--data", "examples/data/sft.jsonl")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fresh clone has of examples."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def commands_of(page: str, heading: str, until: str) -> list[str]:
    section = (ROOT / page).read_text("utf-8").partition(heading)[2].partition(until)[0]
    found = re.findall(r"^    cai (.+)$", section, re.MULTILINE)
    return [command.partition("   #")[0] for command in found]


def test_the_command_knows_every_method() -> None:
    assert set(get_args(MethodName)) == set(METHODS)


def test_every_command_of_the_readme_runs(clone: Path) -> None:
    commands = commands_of("README.md", "### Train with one command", "### Models of your own")
    assert len(commands) == 9
    assert {command.split()[1] for command in commands if command.startswith("train")} == set(METHODS)
    cai = cai_in(clone)
    for command in commands:
        if command.startswith("chat"):
            assert cai(*shlex.split(command), stdin="Explain how to chop the onions.\n").stdout.strip()
        else:
            assert "20 of 20 rows used" in cai(*shlex.split(command)).stdout, command


def test_every_command_of_the_guide_runs(cai: Cai, project: Path) -> None:
    commands = commands_of("docs/training.md", "## One method alone", "## Methods")
    assert len(commands) == 10
    shutil.copytree(ROOT / "examples", project / "examples")
    for command in commands:
        assert cai(*shlex.split(command)).stdout.strip(), command
    labels = [json.loads(line)["p"] for line in (project / "trained/kto-pairs/records.jsonl").read_text().splitlines()]
    assert labels == [1.0, 0.0] * 20
    lora = json.loads((project / "trained/sft-pairs/adapter/adapter_config.json").read_text("utf-8"))["r"]
    assert lora == 8
    assert "rewards/taste" in (project / "trained/grpo-prompts/metrics.jsonl").read_text("utf-8")


def test_what_came_of_it_is_said_and_the_next_command_works(clone: Path) -> None:
    cai = cai_in(clone)
    order = (*SFT, "--out", "told", "--set", "epochs=3", "--set", "holdout=0.2")
    lines = cai(*order).stdout.splitlines()
    assert lines[:3] == ["run sft on sft.jsonl in told", "sft: starts", lines[2]]
    assert lines[2].startswith("sft: done in ")
    text = "\n".join(lines)
    assert "20 of 20 rows used in 3 updates" in text
    first, last = (float(n) for n in re.findall(r"^ *loss +([\d.]+) +([\d.]+)", text, re.MULTILINE)[0])
    assert last < first
    assert re.search(r"loss on rows held out +[\d.]+ +[\d.]+", text)
    assert "Adapter: told/adapter" in lines
    [chat] = [line.strip() for line in lines if line.strip().startswith("cai chat")]
    asked = "Excuse me, let me know how to store the eggs."
    assert "eggs" in cai(*chat.split()[1:], "--once", asked, "--temperature", "0").stdout
    again = cai(*order).stdout
    assert "sft: is done already, 20 of 20" in again
    assert "20 of 20 rows used in 3 updates" in again


def test_json_is_one_event_a_line_and_the_last_one_says_what_came_of_it(clone: Path) -> None:
    data = clone / "some.jsonl"
    data.write_text((clone / "examples" / "data" / "pairs.jsonl").read_text("utf-8") + "{broken\n", "utf-8")
    order = ("train", "dpo", "--model", "tiny", "--data", "some.jsonl", "--set", "epochs=1", "--json")
    events = [json.loads(line) for line in cai_in(clone)(*order).stdout.splitlines()]
    kinds = ["run_started", "stage_started", "metrics", "metrics", "stage_finished", "run_finished"]
    assert [event["kind"] for event in events] == kinds
    told = events[-1]["data"]
    assert told["counts"] == {"inputs": 21, "outputs": 20, "rejects": 1}
    assert told["rejects"] == {"not a row": 1}
    assert told["adapter"] == "trained/dpo-some/adapter"
    assert told["metrics"]["loss"][0] == pytest.approx(0.6931, abs=1e-4)
    reject = json.loads((clone / "trained" / "dpo-some" / "rejects.jsonl").read_text("utf-8"))
    assert reject["detail"].startswith("some.jsonl:21: is not JSON")


def test_bad_input_is_one_line_and_exit_code_2(clone: Path) -> None:
    cai = cai_in(clone)
    for arguments, says in (
        (("ppo", "--data", "examples/data/prompts.jsonl"), "--reward: is missing: ppo learns from rewards"),
        (("dpo", "--data", "examples/data/prompts.jsonl"), "holds prompts without answers, and dpo needs pairs"),
        (("sft", "--data", "examples/data/sft.jsonl", "--set", "epoch=1"), "did you mean 'epochs'?"),
        (("sft", "--data", "absent.jsonl"), "absent.jsonl: cannot be read"),
    ):
        done = cai("train", *arguments, "--model", "tiny", "--out", "refused", code=2)
        assert done.stdout == ""
        assert done.stderr.startswith("cai: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (clone / "refused").exists()
    assert "Usage" in cai("train", "walk", "--data", "x", code=2).stderr


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_comes_to_the_same_bytes(clone: Path) -> None:
    order = [*SFT, "--set", "epochs=15", "--set", "checkpoint_every=1000"]
    command = [sys.executable, "-m", "cai.cli.main", *order, "--out", "stopped"]
    with subprocess.Popen(
        command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        metrics, end = clone / "stopped" / "metrics.jsonl", time.monotonic() + 100
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 2) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=100)
    assert process.returncode == 130, complaint
    assert "stopping after this step" in complaint
    assert "the same command goes on" in complaint
    assert "Traceback" not in complaint
    assert len(list((clone / "stopped" / "checkpoints").iterdir())) == 1
    assert not (clone / "stopped" / "manifest.json").exists()
    cai = cai_in(clone)
    assert "this training is not finished" in cai("chat", "stopped", code=2).stderr
    shown = cai("status", "stopped").stdout
    assert shown.startswith("‖ interrupted  sft on sft.jsonl  stopped\n")
    assert re.search(r"^[1-9]\d* of \d+ updates$", shown, re.MULTILINE) and "Last checkpoint: update " in shown
    [goes_on] = re.findall(r"^Goes on with: cai (.+)$", shown, re.MULTILINE)
    assert "sft: goes on" in cai(*shlex.split(goes_on)).stdout
    assert cai("status", "stopped").stdout.startswith("✓ done  sft on sft.jsonl  stopped\n")
    told = json.loads(cai("status", "stopped", "--json").stdout)
    assert (told["state"], told["done"], told["folder"]) == ("done", told["total"], "stopped")
    cai(*order, "--out", "whole")
    for name in ("metrics.jsonl", "records.jsonl", "adapter/adapter_model.safetensors"):
        assert (clone / "stopped" / name).read_bytes() == (clone / "whole" / name).read_bytes(), name
