"""How a run looks from outside, at every moment of its life, from hand-made folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.files import folder_lock
from cai.manifest import write_manifest
from cai.store.run_folder import list_runs, lock_owner, read_events, read_run

RUN_YAML = "pipeline:\n  name: trial\n  stages:\n  - revise: {rounds: 2}\n  - sft: {}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "trial"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(RUN_YAML, encoding="utf-8")
    return folder


def tell(folder: Path, *events: tuple[str, str, dict[str, object]]) -> None:
    with open(folder / "events.jsonl", "a", encoding="utf-8") as handle:
        for kind, stage, data in events:
            line = json.dumps({"time": 1.5, "kind": kind, "stage": stage, "data": data})
            print(line, file=handle)


STARTED = ("run_started", "", {"name": "trial"})
REVISING = ("stage_started", "01-revise", {"folder": "01-revise-aaaaaaaaaaaa", "resumed": False})
HALF = ("progress", "01-revise", {"done": 64, "total": 128, "rejects": 1})


def test_a_run_that_has_not_begun_waits(run: Path) -> None:
    state = read_run(run)
    assert (state.name, state.state, state.error, state.report) == ("trial", "waiting", "", None)
    assert [(s.number, s.kind, s.state) for s in state.stages] == [(1, "revise", "waiting"), (2, "sft", "waiting")]


def test_a_held_folder_is_running_and_tells_how_far(run: Path) -> None:
    tell(run, STARTED, REVISING, HALF)
    with folder_lock(run):
        state = read_run(run)
    assert (state.state, state.process) == ("running", os.getpid())
    assert [(s.state, s.done, s.total) for s in state.stages] == [("running", 64, 128), ("waiting", 0, 0)]


def test_a_run_whose_owner_was_killed_is_interrupted(run: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from cai.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    tell(run, STARTED, REVISING, HALF)
    subprocess.run([sys.executable, "-c", script, str(run)], check=False)
    assert (run / ".lock").read_text().strip().isdigit(), "the killed process left its number behind"
    state = read_run(run)
    assert (state.state, state.process) == ("interrupted", None)
    assert state.stages[0].state == "interrupted"


def test_a_stopped_run_is_interrupted_and_a_failed_one_says_why(run: Path) -> None:
    tell(run, STARTED, REVISING, ("run_interrupted", "", {"message": "stopped"}))
    assert (read_run(run).state, read_run(run).error) == ("interrupted", "")
    tell(run, STARTED, REVISING, ("run_failed", "", {"error": "disk full"}))
    assert (read_run(run).state, read_run(run).error) == ("failed", "disk full")
    assert read_run(run).stages[0].state == "failed"


def test_only_the_last_session_counts(run: Path) -> None:
    tell(run, STARTED, REVISING, HALF, ("run_failed", "", {"error": "disk full"}), STARTED)
    state = read_run(run)
    assert (state.state, state.error) == ("interrupted", "")
    assert state.stages[0].state == "waiting"


def test_a_finished_stage_tells_its_counts_from_the_manifest(run: Path) -> None:
    tell(run, STARTED, REVISING, ("run_finished", "", {}))
    stage = run / "stages" / "01-revise-aaaaaaaaaaaa"
    stage.mkdir(parents=True)
    write_manifest(stage, "revise", 1, "a" * 64, {}, {"inputs": 8, "outputs": 7, "rejects": 1}, {})
    (run / "report.html").write_text("x")
    state = read_run(run)
    assert (state.state, state.report) == ("done", run / "report.html")
    assert state.stages[0].state == "done"
    assert state.stages[0].counts == {"inputs": 8, "outputs": 7, "rejects": 1}


def test_events_are_read_from_a_number_on_and_torn_lines_are_left_out(run: Path) -> None:
    tell(run, STARTED, REVISING)
    with open(run / "events.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"time": 2, "ki\n')
    tell(run, HALF)
    with open(run / "events.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"time": 3')
    assert [(e.number, e.kind) for e in read_events(run)] == [(1, "run_started"), (2, "stage_started"), (4, "progress")]
    assert [e.number for e in read_events(run, after=2)] == [4]


def test_a_free_folder_has_no_owner(run: Path) -> None:
    assert lock_owner(run) is None
    with folder_lock(run):
        assert lock_owner(run) == os.getpid()
    assert lock_owner(run) is None


def test_runs_are_listed_with_the_last_sign_of_life_first(run: Path) -> None:
    other = run.parent / "other"
    other.mkdir()
    (other / "run.yaml").write_text(RUN_YAML.replace("trial", "other"), encoding="utf-8")
    tell(run, STARTED)
    os.utime(run / "events.jsonl", (10, 10))
    os.utime(other / "run.yaml", (20, 20))
    (run.parent / "no-run").mkdir()
    assert [state.name for state in list_runs(run.parent)] == ["other", "trial"]
    assert list_runs(run.parent / "nowhere") == []


def test_what_is_no_run_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"is no run folder: it has no run\.yaml"):
        read_run(run.parent)
    (run / "run.yaml").write_text("stages: []\n")
    with pytest.raises(InputError, match="does not describe a run"):
        read_run(run)
