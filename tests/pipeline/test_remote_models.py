"""Remote models in a pipeline: named in the file, kept in the run, told in the records."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cai.errors import EndpointError, InputError
from cai.journal import read_lines
from cai.manifest import read_manifest
from cai.models.remote.ledger import Ledger
from cai.pipeline.pilot import Watch, forecast, pilot_of
from cai.pipeline.runner import Event, run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.records import Preference, Revision, from_line
from cai.store.trace import trace
from tests.models.remote.fake_server import Asked, Served, running

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-5d20b7aa"
STAGES = (
    "[{revise: {rounds: 1, answerer: teacher, critic: teacher, chunk: 3}},"
    " {prefer: {judge: teacher, unconfirmed: keep, chunk: 3}}]"
)
Write = Callable[..., Path]


def answer(asked: Asked) -> str:
    """Each question its own answer: what is revised differs from what was answered."""
    return f"answer {asked.key[:6]}"


@pytest.fixture
def server() -> Iterator[Served]:
    with running(Served(answer=answer)) as served:
        yield served


@pytest.fixture
def write(server: Served, tmp_path: Path) -> Write:
    def make(stages: str = STAGES, more: str = "", model: str = "") -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(
            f"name: p\nseed: 3\nconstitution: {ROOT}/constitutions/tiny.yaml\n{model}"
            f"models:\n  teacher: {{url: '{server.url}', model: small, key_env: CANARY_KEY{more}}}\n"
            f"prompts: {{train: {{from: tiny/align, limit: 8}}}}\nstages: {stages}\n",
            encoding="utf-8",
        )
        return path

    return make


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)


def stage_folder(run: Path, name: str) -> Path:
    return next((run / "stages").glob(f"{name}-*"))


def finish(pipeline: Pipeline, folder: Path) -> list[Event]:
    return list(run_pipeline(pipeline, folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "stages").rglob("*") if p.is_file()}


def test_a_remote_model_plays_every_role_and_the_records_say_so(server: Served, write: Write, tmp_path: Path) -> None:
    run = tmp_path / "run"
    events = finish(load_pipeline(write()), run)
    revisions = [from_line(Revision, line) for line in read_lines(stage_folder(run, "01-revise") / "records.jsonl")]
    pairs = [from_line(Preference, line) for line in read_lines(stage_folder(run, "02-prefer") / "records.jsonl")]
    assert len(revisions) == len(pairs) == 8
    fingerprint = load_pipeline(write()).spec.models["teacher"].fingerprint
    assert {r.lineage.answerer for r in revisions} == {r.lineage.critic for r in revisions} == {fingerprint}
    assert {(p.lineage.judge, p.lineage.judged_by) for p in pairs} == {(fingerprint, "log-probabilities")}
    manifest = read_manifest(stage_folder(run, "02-prefer"))
    assert manifest
    assert "machine" not in manifest.facts
    assert manifest.facts["models"] == {fingerprint: "teacher"}
    assert manifest.facts["remotes"] == {
        "teacher": {
            "url": server.url,
            "model": "small",
            "served": ["small"],
            "abilities": {"context": 4096, "limit": "max_tokens", "logprobs": 20, "seed": True},
        }
    }
    notices = [str(event.data["text"]) for event in events if event.kind == "notice"]
    assert len([text for text in notices if text.startswith("teacher: ") and "tokens sent" in text]) == 2
    told = str(trace(run, pairs[0].id))
    assert "teacher (remote:" in told
    assert not any(CANARY.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_the_way_of_choosing_stands_in_the_record_and_in_its_trace(
    server: Served, write: Write, tmp_path: Path
) -> None:
    server.logprobs = False
    finish(load_pipeline(write()), tmp_path / "run")
    records = stage_folder(tmp_path / "run", "02-prefer") / "records.jsonl"
    pairs = [from_line(Preference, line) for line in read_lines(records)]
    assert {pair.lineage.judged_by for pair in pairs} == {"structured output"}
    # The same label in both orders: the position was followed, not the content.
    assert {pair.kind for pair in pairs} == {"contradiction"}
    assert "structured output" in str(trace(tmp_path / "run", pairs[0].id))


def test_a_run_again_asks_nothing_and_changes_nothing(server: Served, write: Write, tmp_path: Path) -> None:
    pipeline = load_pipeline(write())
    finish(pipeline, tmp_path / "run")
    calls, before = len(server.calls), contents(tmp_path / "run")
    assert [e.kind for e in finish(pipeline, tmp_path / "run")][1:-1] == ["stage_skipped"] * 2
    assert (len(server.calls), contents(tmp_path / "run")) == (calls, before)


def test_a_stage_made_anew_pays_for_what_is_new_alone(server: Served, write: Write, tmp_path: Path) -> None:
    finish(load_pipeline(write()), tmp_path / "run")
    calls = len(server.calls)
    finish(load_pipeline(write(), ["stages.1.prefer.tie_below=0.7"]), tmp_path / "run")
    assert len(server.calls) == calls, "the same judgements, weighed in another way"


def test_a_limit_stops_the_run_and_the_same_command_goes_on(server: Served, write: Write, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    finish(load_pipeline(write()), whole)
    server.paid.clear()
    with pytest.raises(EndpointError, match="the limit of 1200 tokens is reached"):
        finish(load_pipeline(write(more=", limits: {tokens: 1200}")), tmp_path / "run")
    events = [json.loads(line) for line in read_lines(tmp_path / "run" / "events.jsonl")]
    assert events[-1]["kind"] == "run_failed"
    assert "the same command goes on from there" in events[-1]["data"]["error"]
    finish(load_pipeline(write()), tmp_path / "run")
    assert set(server.paid.values()) == {1}
    assert contents(tmp_path / "run") == contents(whole)


def test_a_lost_row_is_a_reject_of_that_row(server: Served, write: Write, tmp_path: Path) -> None:
    server.plan = lambda asked, attempt: "400" if "answer" in str(asked.body) and asked.key[0] in "0123" else "ok"
    finish(load_pipeline(write()), tmp_path / "run")
    manifest = read_manifest(stage_folder(tmp_path / "run", "01-revise"))
    assert manifest
    assert manifest.counts["inputs"] == 8
    rejects = manifest.facts["rejects"]
    assert isinstance(rejects, dict)
    assert rejects.keys() == {"request refused"}
    lines = [json.loads(line) for line in read_lines(stage_folder(tmp_path / "run", "01-revise") / "rejects.jsonl")]
    assert all(line["detail"].startswith("round 1, ") and "HTTP 400" in line["detail"] for line in lines)


RUN = """
import os, signal, sys
from pathlib import Path
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
for number, event in enumerate(run_pipeline(load_pipeline(Path(sys.argv[1])), Path(sys.argv[2]))):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
heavy = {"torch", "transformers", "peft", "bitsandbytes"} & sys.modules.keys()
sys.exit(f"loaded for nothing: {heavy}" if heavy else 0)
"""


def test_remote_roles_load_no_torch_and_kill_9_repeats_no_paid_call(
    server: Served, write: Write, tmp_path: Path
) -> None:
    def start(folder: Path, kill_at: int) -> int:
        command = [sys.executable, "-c", RUN, str(write()), str(folder), str(kill_at)]
        return subprocess.run(command, check=False, timeout=120).returncode

    assert start(tmp_path / "whole", -1) == 0
    server.paid.clear()
    for moment in (2, 4):
        assert start(tmp_path / "killed", moment) == -signal.SIGKILL
    assert start(tmp_path / "killed", -1) == 0
    assert set(server.paid.values()) == {1}
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_missing_key_is_refused_before_the_folder_is_made(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(write())
    monkeypatch.delenv("CANARY_KEY")
    with pytest.raises(InputError, match="model 'teacher': the environment variable CANARY_KEY is not set"):
        finish(pipeline, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stages", "more", "told"),
    [
        ("[{revise: {critic: techer, answerer: teacher}}]", "", "as its critic, got techer; known here: base, teacher"),
        ("[{revise: {answerer: teacher}}]", "", "stage 'revise' needs the base, and model is missing; add it"),
        ("[revise, {prefer: {judge: teacher}}]", "", "stage 'revise' needs the base"),
        (STAGES, ", key_evn: X", "unknown key 'key_evn'; did you mean 'key_env'?"),
        (STAGES, ", key: sk-secret", "unknown key 'key'"),
        (STAGES, ", limits: {cost: 3}", "limits.cost needs prices"),
        (STAGES, ", concurrency: 0", "models.teacher.concurrency must be 1 or more, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(write: Write, stages: str, more: str, told: str) -> None:
    path = write(stages, more)
    with pytest.raises(InputError) as caught:
        load_pipeline(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [("https://me:hunter22@host/v1", "a user or password"), ("https://host/v1?key=hunter22", "a query or fragment")],
)
def test_a_secret_in_a_url_is_refused_with_its_line_and_not_shown(write: Write, url: str, told: str) -> None:
    path = write()
    lines = path.read_text().splitlines()
    lines[4] = f"  teacher: {{url: '{url}', model: small}}"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        load_pipeline(path)
    assert str(caught.value).startswith(f"{path}:5:3: models.teacher: url holds {told}")
    assert "hunter22" not in repr(caught.value)


@pytest.mark.parametrize("name", ["base", "sft", "A", "x/y"])
def test_a_name_that_means_something_else_is_refused(write: Write, name: str) -> None:
    path = write()
    path.write_text(path.read_text().replace("teacher:", f"{name}:"))
    with pytest.raises(InputError, match="models: "):
        load_pipeline(path)


def test_samples_can_come_from_a_remote_model(server: Served, write: Write, tmp_path: Path) -> None:
    stages = "[{prefer: {pairs: samples, from: teacher, judge: teacher}}]"
    finish(load_pipeline(write(stages)), tmp_path / "run")
    records = stage_folder(tmp_path / "run", "01-prefer") / "records.jsonl"
    pairs = [from_line(Preference, line) for line in read_lines(records)]
    assert len(pairs) == 8
    assert {pair.lineage.answerer for pair in pairs} == {pair.lineage.judge for pair in pairs} != {""}


def test_who_stands_where_decides_what_a_stage_reads(write: Write) -> None:
    sampled = "{prefer: {pairs: samples, judge: teacher}}"
    stages = f"[{{revise: {{critic: teacher}}}}, {{prefer: {{judge: teacher}}}}, sft, {sampled}]"
    sources = [s.sources for s in load_pipeline(write(stages, model="model: {base: tiny}\n")).stages]
    by_teacher = {"judge": "teacher"}
    assert [source.remotes for source in sources] == [{"critic": "teacher"}, by_teacher, {}, by_teacher]
    assert [source.local for source in sources] == [True, False, True, True]
    assert sources[3].start == 3


def test_a_key_is_in_no_file_of_a_run_that_fails(server: Served, write: Write, tmp_path: Path) -> None:
    server.plan = lambda asked, attempt: "echo 401"
    with pytest.raises(InputError) as caught:
        finish(load_pipeline(write()), tmp_path / "run")
    assert "key refused (HTTP 401: you sent Bearer [key])" in str(caught.value)
    assert CANARY not in repr(caught.value)
    assert not any(CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert os.environ["CANARY_KEY"] == CANARY


def test_a_pilot_tells_what_the_whole_run_will_cost(server: Served, write: Write, tmp_path: Path) -> None:
    """Ten units for each million tokens either way: the pilot's tokens times 10 / 1e6, and five times that for all."""
    path = write(more=", prices: {prompt: 10, reply: 10}")
    whole = load_pipeline(path, ["prompts.train.limit=40"])
    pilot, watch = pilot_of(whole, 8), Watch()
    events = list(watch.over(run_pipeline(pilot, tmp_path / "run")))
    done = [str(event.data["folder"]) for event in events if event.kind == "stage_finished"]
    found = forecast(whole, pilot, tmp_path / "run", watch, done)
    ledger = Ledger(tmp_path / "run" / "remote" / "teacher")
    assert found.cost == {"teacher": pytest.approx(5 * ledger.used.all * 10 / 1e6)}
    assert found.cost["teacher"] > 0
    ledger.close()
