"""A whole run on a random model: skipping, resuming, refusing, and what stays the same whatever happens on the way."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from cai.errors import DamagedFile, FolderInUse, Interrupted, MissingModel
from cai.files import folder_lock, sha256_of
from cai.manifest import read_manifest, write_manifest
from cai.pipeline.runner import Event, run_pipeline
from cai.pipeline.spec import Pipeline

Small = Callable[..., Pipeline]
TIMES = ("events.jsonl", ".lock")


def contents(folder: Path) -> dict[str, str]:
    """What a run made, by path: everything but the files that hold times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in paths if p.name not in TIMES}


def stages_of(folder: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in contents(folder).items() if name.startswith("stages/")}


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events if event.kind.startswith(("stage", "run"))]


def stop_at(question: int) -> Callable[[], bool]:
    """Says no until it is asked for this time, counted from 1."""
    asked = count(1)
    return lambda: next(asked) == question


def folder_of(run: Path, name: str) -> Path:
    return next((run / "stages").glob(f"{name}-*"))


def test_every_stage_is_balanced_and_the_report_says_so(finished: Path) -> None:
    manifests = [read_manifest(path) for path in sorted((finished / "stages").iterdir())]
    names = [path.name[:-13] for path in sorted((finished / "stages").iterdir())]
    assert names == ["01-revise", "02-prefer", "03-sft", "04-prefer", "05-dpo", "06-evaluate"]
    assert all(m and m.counts["inputs"] == m.counts["outputs"] + m.counts["rejects"] for m in manifests)
    assert all(m and m.counts["outputs"] > 0 for m in manifests), "the random model must get through every stage"
    report = json.loads((finished / "report.json").read_text("utf-8"))
    assert report["schema"] == 1
    assert report["run"] == "small"
    assert [stage["kind"] for stage in report["stages"]] == [m.stage for m in manifests if m]
    metrics = {row["metric"]: row for row in report["metrics"]}
    assert metrics["harmful_compliance"]["values"].keys() == {"base", "sft", "tuned"}
    assert metrics["judge_accuracy"]["values"].keys() == {"base"}
    assert "</html>" in (finished / "report.html").read_text("utf-8")


def test_a_second_run_skips_everything_and_loads_nothing(
    copied: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(spec: object) -> None:
        raise AssertionError(f"{spec} was opened for nothing")

    monkeypatch.setattr("cai.models.local.workbench.open_workbench", refuse)
    before = contents(copied)
    events = list(run_pipeline(small(), copied))
    assert kinds(events) == ["run_started", *["stage_skipped"] * 6, "run_finished"]
    assert contents(copied) == before


def test_name_and_folder_change_no_result(finished: Path, small: Small, tmp_path: Path) -> None:
    events = list(run_pipeline(small("name=another"), tmp_path / "elsewhere" / "deep"))
    assert events[-1].data["report"] == str(tmp_path / "elsewhere" / "deep" / "report.html")
    assert stages_of(tmp_path / "elsewhere" / "deep") == stages_of(finished)


def test_a_run_stopped_again_and_again_ends_as_if_it_never_was(finished: Path, small: Small, tmp_path: Path) -> None:
    """The wish to stop comes at the second to fifth question in turn, so every stage is stopped somewhere."""
    folder, stops = tmp_path / "stopped", 0
    for _ in range(50):
        try:
            list(run_pipeline(small(), folder, stop_at(2 + stops % 4)))
            break
        except Interrupted as error:
            stops += 1
            assert "the same command" in str(error)
    assert stops >= 6
    assert contents(folder) == contents(finished)


def test_a_closed_run_frees_its_folder_and_goes_on(finished: Path, small: Small, tmp_path: Path) -> None:
    run = run_pipeline(small(), tmp_path / "closed")
    while next(run).kind != "progress":
        pass
    run.close()
    last = (tmp_path / "closed" / "events.jsonl").read_text("utf-8").splitlines()[-1]
    assert json.loads(last)["kind"] == "run_interrupted"
    list(run_pipeline(small(), tmp_path / "closed"))
    assert contents(tmp_path / "closed") == contents(finished)


def test_a_changed_stage_is_done_anew_beside_the_old_one(copied: Path, small: Small) -> None:
    before = stages_of(copied)
    events = list(run_pipeline(small("stages.4.dpo.beta=0.2"), copied))
    assert kinds(events)[1:5] == ["stage_skipped"] * 4
    assert kinds(events)[5:] == ["stage_started", "stage_finished", "stage_started", "stage_finished", "run_finished"]
    assert before.items() <= stages_of(copied).items(), "nothing is overwritten"
    assert len(list((copied / "stages").glob("05-dpo-*"))) == 2


def test_the_seed_and_the_constitution_decide_the_folders(copied: Path, small: Small, tmp_path: Path) -> None:
    text = Path(small().constitution.path).read_text("utf-8")
    reworded, retitled = tmp_path / "reworded.yaml", tmp_path / "retitled.yaml"
    reworded.write_text(text.replace("that is less harmful", "that hurts less"), "utf-8")
    retitled.write_text(text.replace("Four principles", "Quattro principles"), "utf-8")

    def first(override: str) -> str:
        run = run_pipeline(small(override), copied)
        next(run)
        kind = next(run).kind
        run.close()
        return kind

    assert first(f"constitution={retitled}") == "stage_skipped"
    assert first("seed=8") == "stage_started"
    assert first(f"constitution={reworded}") == "stage_started"


def test_a_damaged_finished_stage_is_refused_and_nothing_is_written(copied: Path, small: Small) -> None:
    records = folder_of(copied, "02-prefer") / "records.jsonl"
    records.write_text(records.read_text("utf-8").replace("preferred", "preferted", 1), "utf-8")
    before, events = contents(copied), (copied / "events.jsonl").read_bytes()
    with pytest.raises(DamagedFile, match=r"records\.jsonl"):
        list(run_pipeline(small(), copied))
    assert contents(copied) == before
    assert (copied / "events.jsonl").read_bytes() == events


@pytest.mark.parametrize("name", ["records.jsonl", "commits.jsonl"])
def test_a_corrupted_journal_is_refused_and_nothing_is_written(copied: Path, small: Small, name: str) -> None:
    stage = folder_of(copied, "02-prefer")
    (stage / "manifest.json").unlink()
    content = (stage / name).read_bytes()
    (stage / name).write_bytes(content[:10] + b"#" + content[11:])
    before, events = contents(copied), (copied / "events.jsonl").read_bytes()
    with pytest.raises(DamagedFile, match=name):
        list(run_pipeline(small(), copied))
    assert contents(copied) == before
    assert (copied / "events.jsonl").read_bytes() == events


def test_a_missing_model_is_refused_before_the_folder_is_made(small: Small, tmp_path: Path) -> None:
    with pytest.raises(MissingModel):
        list(run_pipeline(small("model.base=./nowhere"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(copied: Path, small: Small) -> None:
    before = contents(copied)
    with folder_lock(copied), pytest.raises(FolderInUse):
        list(run_pipeline(small(), copied))
    assert contents(copied) == before


def test_another_machine_is_noticed(copied: Path, small: Small) -> None:
    for path in (copied / "stages").glob("0[56]-*"):
        shutil.rmtree(path)
    stage = folder_of(copied, "04-prefer")
    m = read_manifest(stage)
    assert m
    machine = m.facts["machine"]
    assert isinstance(machine, dict)
    facts = {**m.facts, "machine": {**machine, "threads": 96}}
    write_manifest(stage, m.stage, m.version, m.digest, m.inputs, m.counts, facts)
    run = run_pipeline(small(), copied)
    notice = next(event for event in run if event.kind == "notice")
    run.close()
    assert "threads 96 →" in str(notice.data["text"])


RUN = """
import sys
from pathlib import Path
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
for event in run_pipeline(load_pipeline(Path(sys.argv[1])), Path(sys.argv[2])):
    print(event.kind, event.stage, flush=True)
"""


def test_kill_9_at_three_moments_leaves_no_trace(small_file: Path, finished: Path, tmp_path: Path) -> None:
    """A thin slice of bench/kill.py: while it revises, in the middle of DPO, and while it evaluates."""

    def start(folder: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", RUN, str(small_file), str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    killed = tmp_path / "killed"
    for moment in ("progress 01-revise", "metrics 05-dpo", "progress 06-evaluate"):
        process = start(killed)
        assert process.stdout
        assert any(line.strip() == moment for line in process.stdout), f"{moment} never came"
        process.kill()
        process.communicate()
    process = start(killed)
    process.communicate()
    assert process.returncode == 0
    assert contents(killed) == contents(finished)


def test_a_probe_is_in_the_curve_when_it_is_asked_for(copied: Path, small: Small) -> None:
    plain = folder_of(copied, "05-dpo")
    list(run_pipeline(small("stages.4.dpo.probe_every=2"), copied))
    (probed,) = set((copied / "stages").glob("05-dpo-*")) - {plain}
    steps = [json.loads(line) for line in (probed / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [step["step"] for step in steps if "probe/harmful_compliance" in step] == [2, len(steps)]
    assert "probe/" not in (plain / "metrics.jsonl").read_text("utf-8")
