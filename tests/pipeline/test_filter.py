"""The filter stage: what it takes out, who reads what it leaves, and what is said where nothing is left."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from cai.errors import InputError, Interrupted
from cai.feedback.filters.looking import asked_in
from cai.feedback.filters.sifting import sift
from cai.files import sha256_of
from cai.journal import read_lines
from cai.manifest import Manifest, read_manifest
from cai.models.local.lengths import token_counter
from cai.models.tiny.weights import FOLDER
from cai.pipeline import stage_filter
from cai.pipeline.configs import FilterConfig
from cai.pipeline.reading import read_records
from cai.pipeline.runner import Event, run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.work import works_of
from cai.records import Preference, Reject, Revision, from_line
from cai.store.dataset import open_data
from cai.store.trace import Fact, trace
from tests.models.remote.fake_server import Asked, Served, running

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"
MADE = "{revise: {rounds: 1, answerer: teacher, critic: teacher}}, {prefer: {judge: teacher, unconfirmed: keep}}"
Write = Callable[..., Path]
Small = Callable[..., Pipeline]


def answer(asked: Asked) -> str:
    """Words that no other answer has. One in eight holds an address."""
    address = " Write to max@mail.school.org" if asked.key[0] in "01" else ""
    letters = asked.key.translate(str.maketrans("0123456789", "ghijklmnop"))
    return " ".join(letters[i : i + 6] for i in range(0, 48, 6)) + address


@pytest.fixture
def server() -> Iterator[Served]:
    with running(Served(answer=answer, p_of_a=lambda asked: 0.9 if int(asked.key[0], 16) % 2 else 0.2)) as served:
        yield served


@pytest.fixture
def write(server: Served, tmp_path: Path) -> Write:
    """A pipeline of remote models alone, so that nothing is loaded."""

    def make(
        stages: str, prompts: str = "train: {from: tiny/align, limit: 40}, test: {from: tiny/test, limit: 8}"
    ) -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(
            f"name: p\nseed: 3\nconstitution: {ROOT}/constitutions/tiny.yaml\n"
            f"models:\n  teacher: {{url: '{server.url}', model: small}}\n"
            f"prompts: {{{prompts}}}\nstages: [{stages}]\n",
            encoding="utf-8",
        )
        return path

    return make


def finish(path: Path, folder: Path) -> list[Event]:
    return list(run_pipeline(load_pipeline(path), folder))


def folder_of(run: Path, name: str) -> Path:
    [found] = (run / "stages").glob(f"{name}-*")
    return found


def manifest_of(run: Path, name: str) -> Manifest:
    found = read_manifest(folder_of(run, name))
    assert found
    return found


def rejects_of(folder: Path) -> list[Reject]:
    return [from_line(Reject, line) for line in read_lines(folder / "rejects.jsonl")]


def contents(run: Path) -> dict[str, str]:
    return {p.relative_to(run).as_posix(): sha256_of(p) for p in (run / "stages").rglob("*") if p.is_file()}


def lines(fact: Fact) -> Iterator[str]:
    yield f"{fact.label}: {fact.value}"
    for child in fact.children:
        yield from lines(child)


def test_each_row_stays_or_goes_with_a_reason_as_the_filters_say(write: Write, tmp_path: Path) -> None:
    path = write(f"{MADE}, filter")
    events = finish(path, tmp_path / "run")
    judged = read_records(Preference, [folder_of(tmp_path / "run", "02-prefer")])
    folder, manifest = folder_of(tmp_path / "run", "03-filter"), manifest_of(tmp_path / "run", "03-filter")
    tests = [asked_in(prompt) for prompt in load_pipeline(path).test]
    made = list(sift(lambda: judged, FilterConfig(), tests).sift(judged))
    assert [row for row in made if isinstance(row, Preference)] == read_records(Preference, [folder])
    assert [row for row in made if isinstance(row, Reject)] == rejects_of(folder)
    reasons = Counter(reject.reason for reject in rejects_of(folder))
    assert reasons["private data: e-mail"] > 2
    assert manifest.facts["rejects"] == reasons
    assert manifest.counts["inputs"] == len(judged) == manifest.counts["outputs"] + reasons.total()
    assert "machine" not in manifest.facts, "no model is opened for it"
    assert [e.data["done"] for e in events if e.kind == "progress" and e.stage == "03-filter"] == [len(judged)]


def test_what_the_filters_switched_off_is_left_in(write: Write, tmp_path: Path) -> None:
    path = write(
        f"{MADE}, {{filter: {{private_data: false, near_duplicates: null, bursts: null, test_overlap: false}}}}"
    )
    finish(path, tmp_path / "run")
    manifest = manifest_of(tmp_path / "run", "03-filter")
    assert manifest.counts["outputs"] == manifest.counts["inputs"]
    assert "prompts" not in manifest.inputs


def test_a_test_question_is_taken_out(write: Write, tmp_path: Path) -> None:
    prompts = "train: {from: tiny/align, limit: 20}, test: {from: tiny/align, limit: 12}"
    path = write(f"{MADE}, {{filter: {{private_data: false, near_duplicates: null}}}}", prompts)
    finish(path, tmp_path / "run")
    tests = {prompt.id for prompt in load_pipeline(path).test}
    judged = read_records(Preference, [folder_of(tmp_path / "run", "02-prefer")])
    rejects = {reject.id: reject.reason for reject in rejects_of(folder_of(tmp_path / "run", "03-filter"))}
    known = {pair.id for pair in judged if pair.prompt.id in tests}
    assert known <= rejects.keys()
    assert set(rejects.values()) == {"in the test set"}


def test_a_phrase_that_comes_back_is_told_while_it_runs_and_in_the_manifest(
    server: Served, write: Write, tmp_path: Path
) -> None:
    server.answer = lambda asked: answer(asked) + " You are valid and cared for." * (asked.key[1] in "0123")
    events = finish(write(f"{MADE}, {{filter: {{near_duplicates: null}}}}"), tmp_path / "run")
    manifest = manifest_of(tmp_path / "run", "03-filter")
    rejects = manifest.facts["rejects"]
    assert isinstance(rejects, dict)
    assert rejects["burst"] >= 5
    assert manifest.facts["notes"] == {"bursts": 1}
    [told] = [str(e.data["text"]) for e in events if e.kind == "notice" and e.stage == "03-filter"]
    assert "you are valid and cared for" in told
    assert "nothing explains it" in told


def test_later_stages_read_what_the_filter_left_and_so_does_an_export(write: Write, tmp_path: Path) -> None:
    filtered = "{filter: {of: revisions, near_duplicates: null}}"
    path = write(
        f"{{revise: {{rounds: 1, answerer: teacher, critic: teacher}}}}, {filtered}, {{prefer: {{judge: teacher}}}}"
    )
    finish(path, tmp_path / "run")
    run = tmp_path / "run"
    kept = {row.id for row in read_records(Revision, [folder_of(run, "02-filter")])}
    gone = {reject.id for reject in rejects_of(folder_of(run, "02-filter"))}
    judged = read_records(Preference, [folder_of(run, "03-prefer")])
    assert gone
    assert {pair.origin for pair in judged} <= {f"revisions:{i}" for i in kept}
    assert manifest_of(run, "03-prefer").counts["inputs"] == len(kept)
    assert len(list(open_data(run).rows())) == len(judged), "a filter of revisions holds no pairs"

    finish(write(f"{MADE}, {{filter: {{near_duplicates: null}}}}"), tmp_path / "other")
    data = open_data(tmp_path / "other")
    pairs = read_records(Preference, [folder_of(tmp_path / "other", "03-filter")])
    assert list(data.rows()) == pairs
    assert 0 < len(pairs) < manifest_of(tmp_path / "other", "02-prefer").counts["outputs"]
    assert data.named.constitution_id == "tiny"
    assert "teacher" in data.models.values()
    assert set(data.rejects) == {"private data: e-mail"}


def test_a_row_is_traced_through_the_filter(write: Write, tmp_path: Path) -> None:
    finish(write(f"{MADE}, {{filter: {{near_duplicates: null}}}}"), tmp_path / "run")
    folder = folder_of(tmp_path / "run", "03-filter")
    kept, gone = read_records(Preference, [folder])[0], rejects_of(folder)[0]
    told = list(lines(trace(tmp_path / "run", kept.id)))
    assert f"kept by 03-filter: {kept.id}" in told
    assert f"pair: first answer against revision {kept.origin.partition(':')[2]}" in told
    assert "constitution: tiny " in str(told)
    assert not [line for line in told if line.startswith("judged in 03-filter")]
    assert f"left out of 03-filter: {gone.reason}: {gone.detail}" in list(lines(trace(tmp_path / "run", gone.id)))
    by_prompt = list(lines(trace(tmp_path / "run", kept.prompt.id)))
    assert f"kept by 03-filter: {kept.id}" in by_prompt


def test_a_filter_that_was_stopped_or_killed_ends_as_if_it_never_was(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(f"{MADE}, filter")
    finish(path, tmp_path / "whole")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cai.feedback.filters.sifting import Sifter\n"
        "from cai.pipeline.runner import run_pipeline\n"
        "from cai.pipeline.spec import load_pipeline\n"
        "sift = Sifter.sift\n"
        "def killed(self, rows):\n"
        "    for number, row in enumerate(sift(self, rows)):\n"
        "        if number == 9: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield row\n"
        "Sifter.sift = killed\n"
        "list(run_pipeline(load_pipeline(Path(sys.argv[1])), Path(sys.argv[2])))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "run")], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in folder_of(tmp_path / "run", "03-filter").iterdir() if p.name.endswith(".part")]
    monkeypatch.setattr(stage_filter, "TOLD_EVERY", 7)
    asked = count(1)
    with pytest.raises(Interrupted, match=r"03-filter: stopped after 14 of \d+; the same command begins it again"):
        list(run_pipeline(load_pipeline(path), tmp_path / "run", lambda: next(asked) == 2))
    events = finish(path, tmp_path / "run")
    assert [e.kind for e in events if e.kind.startswith("stage_")][:2] == ["stage_skipped"] * 2
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert [e.kind for e in finish(path, tmp_path / "run")][1:-1] == ["stage_skipped"] * 3


def test_a_filter_that_leaves_nothing_is_refused_before_training(
    server: Served, write: Write, tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(spec: object) -> None:
        raise AssertionError(f"{spec} was opened for nothing")

    monkeypatch.setattr("cai.models.local.workbench.open_workbench", refuse)
    server.answer = lambda asked: f"{asked.key} knows max@mail.school.org"
    path = write(f"{MADE}, {{filter: {{near_duplicates: null, bursts: null}}}}, dpo")
    path.write_text(path.read_text() + f"model: {{base: {random_model}, quantization: none}}\n")
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            finish(path, tmp_path / "run")
        assert str(caught.value) == (
            f"{folder_of(tmp_path / 'run', '03-filter')}: the filters leave none of 40 preferences: private data: "
            "e-mail (40); rejects.jsonl in there says why of each; loosen or switch off what takes too much"
        )
    assert len(rejects_of(folder_of(tmp_path / "run", "03-filter"))) == 40
    assert not list((tmp_path / "run" / "stages").glob("04-*"))
    assert json.loads(list(read_lines(tmp_path / "run" / "events.jsonl"))[-1])["kind"] == "run_failed"


def test_a_filter_without_an_input_says_so(server: Served, write: Write, tmp_path: Path) -> None:
    server.plan = lambda asked, attempt: "ok" if asked.probes else "400"
    with pytest.raises(InputError, match="there are no preferences to filter, since the stages before made none"):
        finish(write(f"{MADE}, filter"), tmp_path / "run")


def test_training_takes_what_the_filter_left_and_the_report_tells(copied: Path, small: Small) -> None:
    """The pipeline of the finished run with two filters put in: what stood before the first is not made again."""
    stages = (
        "[{revise: {rounds: 2, chunk: 3}}, {prefer: {pairs: revisions, unconfirmed: keep, tie_below: 0.5, chunk: 3}},"
        " {sft: {helpful: 1, batch_size: 4, epochs: 2, checkpoint_every: 2}},"
        " {prefer: {pairs: samples, samples: 3, from: sft, tie_below: 0.5, chunk: 3}},"
        " {filter: {of: revisions, near_duplicates: 0.5, bursts: null, poor_text: false}},"
        " {filter: {balance_lengths: true, near_duplicates: null, bursts: null, poor_text: false}},"
        " {sft: {helpful: 1, batch_size: 4, epochs: 1}}, {dpo: {batch_size: 4}},"
        " {evaluate: {chunk: 8, judge_pairs: 0}}]"
    )
    events = list(run_pipeline(small(f"stages={stages}"), copied))
    assert [e.kind for e in events if e.kind.startswith("stage_")][:4] == ["stage_skipped"] * 4
    pairs = read_records(Preference, [folder_of(copied, "06-filter")])
    preferred = [pair for pair in pairs if pair.kind == "preferred"]
    longer = [len(pair.chosen) > len(pair.rejected) for pair in preferred if len(pair.chosen) != len(pair.rejected)]
    assert 2 * sum(longer) == len(longer) > 0
    trained = {json.loads(line)["id"] for line in read_lines(folder_of(copied, "08-dpo") / "records.jsonl")}
    assert trained == {pair.id for pair in preferred}
    kept = {revision.id for revision in read_records(Revision, [folder_of(copied, "05-filter")])}
    rows = [json.loads(line) for line in read_lines(folder_of(copied, "07-sft") / "records.jsonl")]
    assert {row["revision_id"] for row in rows} <= kept
    told = list(lines(trace(copied, preferred[0].id)))
    assert {f"kept by 06-filter: {preferred[0].id}", f"trained on in 08-dpo: {preferred[0].id}"} <= set(told)
    report = json.loads((copied / "report.json").read_text("utf-8"))
    told = {stage["number"]: stage for stage in report["stages"]}
    assert [stage["kind"] for stage in report["stages"]][4:6] == ["filter", "filter"]
    assert told[6]["inputs"] == told[6]["outputs"] + sum(told[6]["rejects"].values())
    assert "Filter" in (copied / "report.html").read_text("utf-8")


def reads(*stages: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What each stage of the quickstart with these stages reads: revisions and preferences."""
    pipeline = load_pipeline(QUICKSTART, ["prompts.train.limit=8", f"stages=[{', '.join(stages)}]"])
    return [(stage.sources.revisions, stage.sources.preferences) for stage in pipeline.stages]


def test_a_filter_stands_for_what_it_read() -> None:
    samples = "{prefer: {pairs: samples}}"
    found = reads("revise", "prefer", "filter", "sft", samples, "dpo", "filter", "dpo")
    assert [pairs for _, pairs in found] == [(), (), (2,), (), (), (3, 5), (3, 5), (7,)]
    found = reads("revise", "{filter: {of: revisions}}", "revise", "prefer", "{filter: {of: revisions}}", "sft")
    assert [revisions for revisions, _ in found] == [(), (1,), (), (2, 3), (2, 3), (5,)]


def test_dpo_takes_its_sort_of_pairs_out_of_a_filter_that_holds_both() -> None:
    samples = "{prefer: {pairs: samples}}"
    before = ("revise", "prefer", "filter", "sft", samples)
    assert reads(*before, "{dpo: {pairs: samples}}")[-1] == ((), (5,))
    assert reads(*before, "{dpo: {pairs: revisions}}")[-1] == ((), (3,))
    assert reads(*before, "filter", "{dpo: {pairs: samples}}")[-1] == ((), (6,))
    with pytest.raises(InputError, match="needs a stage before it that prefers samples"):
        reads("revise", "prefer", "filter", "{dpo: {pairs: samples}}")


def test_a_plan_counts_what_a_filter_reads_and_what_may_pass_it() -> None:
    """1,000 prompts give as many pairs of each sort; a filter may pass them all."""
    overrides = (
        "stages=[{revise: {rounds: 3, max_new_tokens: 64}}, prefer, filter, sft, {prefer: {pairs: samples}}, %s]"
    )
    filtered = load_pipeline(QUICKSTART, [overrides % "filter, {dpo: {pairs: samples}}"])
    plain = load_pipeline(QUICKSTART, [overrides % "{dpo: {pairs: samples}}"])
    with_filter, without = (works_of(pipeline, token_counter(FOLDER)) for pipeline in (filtered, plain))
    assert [(work.inputs, work.rows) for work in with_filter if work.kind == "filter"] == [(1000, 1000), (2000, 2000)]
    assert [(w.answers, w.judgements, w.batches) for w in with_filter if w.kind == "filter"] == [(0, 0, ())] * 2
    assert (with_filter[-1].updates, with_filter[-1].batches) == (without[-1].updates, without[-1].batches)


def test_the_guides_filter_is_sound(write: Write) -> None:
    [line] = re.findall(r"^  - (filter: .+)$", (ROOT / "docs" / "pipelines.md").read_text("utf-8"), re.MULTILINE)
    config = load_pipeline(write(f"{MADE}, {{{line}}}")).stages[2].config
    assert isinstance(config, FilterConfig)
    assert (config.near_duplicates, config.bursts, config.balance_lengths) == (0.9, None, True)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ("revise, prefer, {filter: {near_duplicate: 0.9}}", "unknown key 'near_duplicate'; did you mean 'near_dup"),
        ("revise, prefer, {filter: {near_duplicates: 0.2}}", "near_duplicates must be 0.5 or more, got 0.2"),
        ("revise, prefer, {filter: {of: answers}}", "of must be 'preferences' or 'revisions', got answers"),
        ("revise, {filter: {of: revisions, balance_lengths: true}}", "balance_lengths compares chosen and rejected"),
        ("revise, filter", "stage 'filter' needs a 'prefer' stage before it; put one above it, as in - prefer"),
        ("filter", "stage 'filter' needs a 'prefer' stage before it"),
        ("{filter: {of: revisions}}", "stage 'filter' needs a 'revise' stage before it"),
        ("revise, prefer, filer", "there is no such stage kind, got filer; did you mean 'filter'?"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_its_line(write: Write, stages: str, told: str) -> None:
    path = write(stages)
    path.write_text(path.read_text() + "model: {base: tiny}\n")
    with pytest.raises(InputError) as caught:
        load_pipeline(path)
    assert str(caught.value).startswith(f"{path}:")
    assert told in str(caught.value)


def test_a_look_at_the_test_set_that_is_asked_for_needs_one(write: Write) -> None:
    prompts = "train: {from: tiny/align, limit: 8}"
    asked = write(f"{MADE}, {{filter: {{test_overlap: true}}}}", prompts)
    with pytest.raises(InputError, match=r"stage 'filter' needs prompts\.test; add a 'test' set"):
        load_pipeline(asked)
    assert load_pipeline(write(f"{MADE}, filter", prompts)).stages[2].sources.prompts == "test"
