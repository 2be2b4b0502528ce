"""The judge's gate, and what an endpoint as the judge shows: what is asked again, lost, thought, and left out."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cai.constitution.frames import frames_digest
from cai.errors import CaiError, GateRefused, InputError
from cai.journal import read_lines
from cai.manifest import read_manifest
from cai.models.local.lengths import token_counter
from cai.models.tiny.weights import FOLDER
from cai.pipeline.judging import temperature_of
from cai.pipeline.plan import make_room
from cai.pipeline.reading import read_records
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.pipeline.work import works_of
from cai.records import Preference, Reject, Revision
from cai.store.dataset import open_data
from cai.store.formats.exporting import ExportSettings, export
from cai.store.formats.importing import read_rows
from cai.store.run_folder import read_run
from cai.store.trace import trace
from tests.models.remote.fake_server import Asked, Served, running
from tests.pipeline.test_judge_stage import ROOT, folder_of, manifest_of, notices, written
from tests.store.test_trace import lines

Write = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[Served]:
    with running(Served(answer=lambda asked: f"reply {asked.key[:6]}", p_of_a=by_length)) as served:
        yield served


@pytest.fixture
def remote(server: Served, tmp_path: Path) -> Write:
    """`remote(stages)`: a pipeline that asks the endpoint alone."""

    def make(stages: str) -> Path:
        return written(tmp_path, stages, f"models: {{teacher: {{url: '{server.url}', model: small}}}}")

    return make


def by_length(asked: Asked) -> float:
    """Prefers the shorter of two answers, whichever stands first."""
    first, _, second = asked.words.partition("\n\nAnswer B [")
    return 0.9 if len(first.partition("\n\nAnswer A [")[2]) < len(second) - len("\n\nReply with A or B.") else 0.2


def gate(require: str, more: str = "") -> str:
    return f"[{{judge: {{judge: teacher, limit: 40, chunk: 16, require: {{{require}}}}}}}{more}]"


def test_a_gate_refuses_and_refuses_again_at_once_and_passes_when_it_is_met(
    server: Served, remote: Write, tmp_path: Path
) -> None:
    """The judge prefers what is shorter: in the embedded world that is right about brevity, and half of the rest."""
    run = tmp_path / "run"
    after = ", {prefer: {pairs: samples, from: teacher, judge: teacher}}"
    for again in (False, True):
        with pytest.raises(GateRefused) as caught:
            list(run_pipeline(load_pipeline(remote(gate("accuracy: 0.99, consistency: 0.9", after))), run))
        paid = sum(server.paid.values()) if not again else paid  # noqa: F821 - set in the first round
        assert caught.value.exit_code == 3
        told = str(caught.value)
        assert told.startswith("01-judge: judge 'teacher' falls short: accuracy is 0.")
        assert "and at least 0.99 is required; the card is " in told
        assert "consistency" not in told, "that one is met"
        folder = folder_of(run, "01-judge")
        assert (folder / "card.html").exists()
        assert read_manifest(folder) is None
        assert json.loads(list(read_lines(run / "events.jsonl"))[-1])["kind"] == "run_failed"
        assert read_run(run).state == "failed"
        assert sum(server.paid.values()) == paid, "a second refusal asks nothing"
    assert not list((run / "stages").glob("02-*"))
    assert 0 < json.loads((folder / "card.json").read_text("utf-8"))["accuracy"]["share"] < 0.99
    events = list(run_pipeline(load_pipeline(remote(gate("accuracy: 0.1, consistency: 0.9"))), run))
    assert events[-1].kind == "run_finished"
    assert sum(server.paid.values()) == paid, "nor does a lower bar"


def test_what_the_judge_loses_is_counted_and_may_be_bounded(server: Served, remote: Write, tmp_path: Path) -> None:
    """One pair in several has an answer that the endpoint will not read."""
    server.plan = lambda asked, attempt: "400" if "clown" in asked.words and not asked.probes else "ok"
    list(run_pipeline(load_pipeline(remote(gate("unjudged: 0.9"))), tmp_path / "run"))
    manifest = manifest_of(tmp_path / "run", "01-judge")
    rejects = manifest.counts["rejects"]
    assert 0 < rejects < 40
    assert manifest.counts == {"inputs": 40, "outputs": 40 - rejects, "rejects": rejects}
    card = json.loads((folder_of(tmp_path / "run", "01-judge") / "card.json").read_text("utf-8"))
    assert card["unjudged"] == pytest.approx(rejects / 40)
    with pytest.raises(GateRefused, match="unjudged is 0"):
        list(run_pipeline(load_pipeline(remote(gate("unjudged: 0.0"))), tmp_path / "run"))


def test_a_judge_that_judges_nothing_is_an_error_and_no_card(server: Served, remote: Write, tmp_path: Path) -> None:
    server.plan = lambda asked, attempt: "ok" if asked.probes else "400"
    with pytest.raises(CaiError, match=r"01-judge: none of 40 labelled pairs came to a judgement: .*\(40\)"):
        list(run_pipeline(load_pipeline(remote(gate(""))), tmp_path / "run"))


def test_a_card_with_too_few_pairs_leaves_labels_as_they_are_and_says_so(remote: Write, tmp_path: Path) -> None:
    stages = gate("", ", {prefer: {pairs: samples, from: teacher, judge: teacher, calibrate: true}}")
    events = list(run_pipeline(load_pipeline(remote(stages)), tmp_path / "run"))
    told = "the judge's card has too few pairs to tell a temperature, so labels stay as they are"
    assert told in notices(events, "02-prefer")


def test_a_judge_stage_in_plain_text_refuses_a_model_that_only_chats(
    server: Served, remote: Write, tmp_path: Path
) -> None:
    stages = "[{judge: {judge: teacher, style: paper, limit: 8}}]"
    list(run_pipeline(load_pipeline(remote(stages)), tmp_path / "run"))
    assert manifest_of(tmp_path / "run", "01-judge").counts["outputs"] == 8
    server.completions = False
    with pytest.raises(InputError, match="no /completions"):
        list(run_pipeline(load_pipeline(remote(stages)), tmp_path / "another"))


def test_a_file_of_labelled_pairs_is_measured_row_by_row(remote: Write, tmp_path: Path) -> None:
    """Of five rows one is a tie and one no pair; the card names the file, and whose answers were the judge's own."""
    pair = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven, I suppose."}
    rows = [
        {**pair, "subset": "easy", "chosen_model": "small", "rejected_model": "large"},
        {**pair, "prompt": "Name another.", "kind": "tie"},
        {"prompt": "q", "completion": "a"},
        {**pair, "prompt": "Name a third.", "subset": "hard", "people": ["chosen", "chosen"]},
        {**pair, "prompt": "Name a last one.", "subset": "hard"},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    list(run_pipeline(load_pipeline(remote("[{judge: {judge: teacher, data: mine.jsonl}}]")), tmp_path / "run"))
    manifest = manifest_of(tmp_path / "run", "01-judge")
    assert manifest.counts == {"inputs": 5, "outputs": 3, "rejects": 2}
    assert manifest.facts["rejects"] == {"labelled a tie": 1, "not a pair": 1}
    card = json.loads((folder_of(tmp_path / "run", "01-judge") / "card.json").read_text("utf-8"))
    assert (card["data"], card["accuracy"]["share"]) == ("mine.jsonl", 1.0)
    assert card["own"] == {"n": 1, "preferred": 1.0, "better": 1.0}
    assert [(part["name"], part["accuracy"]["n"]) for part in card["subsets"]] == [("easy", 1), ("hard", 2)]


def test_a_judge_that_thinks_first_leaves_its_thoughts_in_records_exports_and_traces(
    remote: Write, tmp_path: Path
) -> None:
    stages = "[{prefer: {pairs: samples, from: teacher, judge: teacher, principles: 2, reasoning: 1}}]"
    list(run_pipeline(load_pipeline(remote(stages)), tmp_path / "run"))
    records = read_records(Preference, [folder_of(tmp_path / "run", "01-prefer")])
    assert records
    assert all(0.5 <= record.p_chosen <= 0.6 for record in records)
    assert all(len(verdict.reasons) == 2 for record in records for verdict in record.verdicts)
    assert {record.lineage.frames for record in records} == {frames_digest(reasoned=True)}
    assert manifest_of(tmp_path / "run", "01-prefer").inputs["frames"] == frames_digest(reasoned=True)
    kinds = ("preferred", "tie", "contradiction")
    for target in ("parquet", "trl", "jsonl"):
        done = export(open_data(tmp_path / "run"), tmp_path / target, ExportSettings(target, kinds=kinds))
        back = [row for split in done.splits for row in read_rows(done.folder / split.file)]
        assert back == records
    told = list(lines(trace(tmp_path / "run", records[0].id)))
    assert sum("/thought, shown first: reply " in line for line in told) == 2


def test_a_revision_that_the_judge_does_not_confirm_is_left_out_under_its_own_id(
    server: Served, remote: Write, tmp_path: Path
) -> None:
    server.p_of_a = lambda asked: 0.5
    stages = "[{revise: {rounds: 1, answerer: teacher, critic: teacher}}, {prefer: {judge: teacher}}]"
    list(run_pipeline(load_pipeline(remote(stages)), tmp_path / "run"))
    revisions = read_records(Revision, [folder_of(tmp_path / "run", "01-revise")])
    rejects = [
        Reject(**json.loads(line)) for line in read_lines(folder_of(tmp_path / "run", "02-prefer") / "rejects.jsonl")
    ]
    assert Counter(r.reason for r in rejects) == {"unconfirmed revision": len(revisions)}
    assert {r.id for r in rejects} == {revision.id for revision in revisions}
    told = list(lines(trace(tmp_path / "run", revisions[0].id)))
    assert "revision/left out of 02-prefer: unconfirmed revision: a tie, with 0.50 for the revision" in told


def test_a_judge_stage_that_finds_no_usable_pair_is_planned_and_refused_in_words(tmp_path: Path) -> None:
    """The first pair is about harm, and the constitution speaks of idle talk alone."""
    only = tmp_path / "brief.yaml"
    text = (ROOT / "constitutions" / "tiny.yaml").read_text("utf-8")
    only.write_text(
        text.partition("principles:")[0] + "principles:\n  - id: brevity" + text.rpartition("- id: brevity")[2]
    )
    pipeline = load_pipeline(written(tmp_path, "[{judge: {limit: 1}}]", constitution=str(only)))
    [work] = works_of(pipeline, token_counter(FOLDER))
    assert (work.inputs, work.judgements) == (0, 0)
    make_room(pipeline, pipeline.stages)
    with pytest.raises(CaiError, match=r"none of 1 labelled pairs came to a judgement: no principle about it \(1\)"):
        list(run_pipeline(pipeline, tmp_path / "run"))


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ("[{judge: {data: absent.jsonl}}]", "there is no such file, got absent.jsonl; looked in"),
        ("[{judge: {data: answers.jsonl}}]", "answers.jsonl: holds no pair of which the better answer is known; the"),
        ("[{judge: {data: ties.jsonl}}]", "ties.jsonl: holds no pair of which the better answer is known"),
        ("[{judge: {reasoning: 1, style: paper}}]", "a judge that reasons is asked in a chat; remove 'reasoning'"),
        ("[{judge: {tokens_per_pair: 90}}]", "set certain_at"),
        ("[{judge: {judge: teacher}}]", "must name base or one of models as its judge, got teacher"),
        ("[{judge: {require: {accuracy: 1.1}}}]", "require.accuracy must be 1.0 or less, got 1.1"),
        ("[{judge: {require: {precision: 0.9}}}]", "unknown key 'precision'"),
        ("[{judge: {certain_at: 0.4}}]", "certain_at must be 0.5 or more, got 0.4"),
        ("[{judge: {principles: 0}}]", "principles"),
        ("[{prefer: {pairs: imported}}]", "pairs: imported and 'file' belong together"),
        ("[{prefer: {pairs: imported, file: absent.jsonl}}]", "there is no such file, got absent.jsonl"),
        ("[{prefer: {pairs: imported, file: answers.jsonl}}]", "answers.jsonl: holds no pair of answers; name a file"),
        ("[{prefer: {pairs: imported, file: answers.jsonl, from: base}}]", "pairs of imported are not sampled"),
        ("[revise, {prefer: {keep: best}}]", "only samples can be ranked; remove 'keep'"),
        ("[revise, {prefer: {calibrate: true}}]", "needs a 'judge' stage before it that measures this judge, got base"),
        ("[{judge: {tie_below: 0.7}}, revise, {prefer: {calibrate: true}}]", "needs a 'judge' stage before it"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, stages: str, told: str) -> None:
    (tmp_path / "answers.jsonl").write_text('{"prompt": "q", "completion": "a"}\n', "utf-8")
    (tmp_path / "ties.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "kind": "tie"}\n', "utf-8")
    with pytest.raises(InputError) as caught:
        load_pipeline(written(tmp_path, stages))
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_card_that_was_damaged_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}", '{"calibration": {"temperature": "warm"}}'):
        (tmp_path / "card.json").write_text(text, "utf-8")
        with pytest.raises(InputError, match=r"card\.json: is no judge card"):
            temperature_of(tmp_path)
