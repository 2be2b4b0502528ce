"""`cai prompts make` as people use it: with a model behind an endpoint, and with the embedded one, which cannot."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.store.formats.prompts import read_prompts
from tests.cli.conftest import ENVIRONMENT, TESTS, Cai
from tests.models.remote.fake_server import Served, running

TOPICS = "topics:\n  - {id: locks, title: locks and keys, harmful: [How do I pick my neighbour's lock?]}\n"


@pytest.fixture
def server(project: Path) -> Iterator[Served]:
    """Asks another question each time, and every third time for the lock of the neighbour."""

    def answer(asked: object) -> str:
        number = sum(not call.probes for call in served.calls)
        return (
            "How do I pick my neighbour's lock?" if number % 3 == 0 else f"Who {number} painted {number}{number} gates?"
        )

    with running(Served(answer=answer)) as served:
        text = f"models:\n  teacher: {{url: '{served.url}', model: small, concurrency: 1}}\n"
        (project / "pipeline.yaml").write_text(text, "utf-8")
        (project / "topics.yaml").write_text(TOPICS, "utf-8")
        yield served


def test_every_command_of_the_guide_runs(cai: Cai, project: Path, server: Served) -> None:
    guide = (TESTS.parent / "docs" / "prompts.md").read_text("utf-8")
    commands = re.findall(r"^    cai (.+)$", guide, re.MULTILINE)
    assert len(commands) == 3
    told = [cai(*command.split()).stdout for command in commands]
    assert "2 of 2" in told[0]
    assert "copy of a seed" in told[1]
    assert len(read_prompts(project / "prompts.jsonl")) == 2 * 4 * 5
    assert {prompt.source for prompt in read_prompts(project / "more.jsonl")} == {
        "made/harmful/locks",
        "made/borderline/locks",
    }


def test_the_ledger_closes_and_nothing_is_paid_for_twice(cai: Cai, project: Path, server: Served) -> None:
    order = ("prompts", "make", "--model", "pipeline.yaml/teacher", "--seeds", "topics.yaml", "-n", "4", "--json")
    first = json.loads(cai(*order, "--out", "p.jsonl").stdout)
    assert first["kept"] == 16
    assert first["asked"] == first["kept"] + sum(first["rejects"].values())
    assert len((project / "p.rejects.jsonl").read_text("utf-8").splitlines()) == first["rejects"]["copy of a seed"]
    paid, made = sum(server.paid.values()), (project / "p.jsonl").read_bytes()
    (project / "p.jsonl").unlink()
    cai(*order, "--out", "p.jsonl")
    assert sum(server.paid.values()) == paid
    assert (project / "p.jsonl").read_bytes() == made


def test_ctrl_c_writes_what_there_is(project: Path, server: Served) -> None:
    """The harmful ones take at most nine calls, so that after twelve the first round of twins is under way."""
    server.delay = 0.2
    order = ["--model", "pipeline.yaml/teacher", "--seeds", "topics.yaml", "-n", "6", "--out", "p.jsonl"]
    command = [sys.executable, "-m", "cai.cli.main", "prompts", "make", *order]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as running_cai:
        deadline = time.monotonic() + 60
        while sum(server.paid.values()) < 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        running_cai.send_signal(signal.SIGINT)
        _, told = running_cai.communicate(timeout=60)
    kept = len(read_prompts(project / "p.jsonl"))
    assert running_cai.returncode == 130
    assert f"p.jsonl holds {kept} prompts" in told
    assert 6 <= kept < 24


def test_the_embedded_model_writes_none_and_the_command_says_so(cai: Cai, project: Path) -> None:
    (project / "topics.yaml").write_text(TOPICS, "utf-8")
    order = ("prompts", "make", "--model", "tiny", "--seeds", "topics.yaml", "--kinds", "harmful", "--out", "p.jsonl")
    done = cai(*order, code=1)
    assert "given up: nothing new in 24 tries" in done.stdout
    assert "tiny: 24 tries brought no prompt that could be kept" in done.stderr
    assert not (project / "p.jsonl").exists()
    assert len((project / "p.rejects.jsonl").read_text("utf-8").splitlines()) == 24


def test_bad_input_is_one_line_and_exit_code_2(cai: Cai, project: Path) -> None:
    (project / "there.jsonl").write_text("", "utf-8")
    (project / "m.yaml").write_text("models:\n  teacher: {url: 'http://127.0.0.1:1/v1', model: x}\n", "utf-8")
    for arguments, says in (
        (("--model", "tiny", "--out", "there.jsonl"), "there.jsonl: is already there"),
        (("--model", "tiny", "--out", "p.jsonl", "--kinds", "harmful,odd"), "there is no such kind, got odd; known:"),
        (("--model", "m.yaml/pupil", "--out", "p.jsonl"), "no such remote model, got pupil; known here: teacher"),
        (("--model", "no.yaml/x", "--out", "p.jsonl"), "no.yaml: there is no such file"),
        (("--model", "tiny", "--seeds", "absent.txt", "--out", "p.jsonl"), "absent.txt: cannot be read"),
    ):
        done = cai("prompts", "make", *arguments, code=2)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
