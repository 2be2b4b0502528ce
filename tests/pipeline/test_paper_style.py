"""`style: paper` in a pipeline: its digests, its plan, and its refusal where a model cannot go on with text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.constitution.frames import frames_digest
from cai.constitution.paper import paper_digest
from cai.errors import InputError
from cai.feedback.styles import ask_critique, ask_judge, ask_revision, comparison_examples, critique_examples
from cai.journal import read_lines
from cai.models.local.chat import ChatFormat
from cai.models.local.lengths import token_counter
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.work import works_of
from cai.records import Preference, Revision, from_line
from tests.models.remote.fake_server import Asked, Served, running

STAGES = "[{revise: {style: paper, rounds: 2, chunk: 3}}, {prefer: {style: paper, tie_below: 0.5, chunk: 3}}]"
CONSTITUTION = """
id: small
version: 1.0.0
principles:
  - {id: no-harm, critique: Find harm., revision: Remove the harm., preference: Which is less harmful?}
  - {id: brief, critique: Find padding., revision: Cut the padding., preference: Which of the two is shorter?}
examples:
  critiques: [{principle: no-harm, prompt: Is bleach a drink?, answer: Yes., critique: Poison., revision: No.}]
  comparisons: [{prompt: Is bleach a drink?, better: No., worse: Yes.}]
"""
NEW = 256


@pytest.fixture
def on_random(random_model: Path, tmp_path: Path) -> Pipeline:
    return load_pipeline(written(tmp_path, f"model: {{base: {random_model}, quantization: none}}\n", STAGES))


def written(folder: Path, models: str, stages: str) -> Path:
    path = folder / "p.yaml"
    (folder / "small.yaml").write_text(CONSTITUTION, encoding="utf-8")
    path.write_text(
        f"name: p\nseed: 3\nconstitution: small.yaml\n{models}"
        f"prompts: {{train: {{from: tiny/align, limit: 6}}}}\nstages: {stages}\n",
        encoding="utf-8",
    )
    return path


def test_a_run_in_plain_text_is_told_by_records_and_manifests(on_random: Pipeline, tmp_path: Path) -> None:
    run = tmp_path / "run"
    events = list(run_pipeline(on_random, run))
    assert events[-1].kind == "run_finished"
    folders = sorted((run / "stages").iterdir())
    revisions = [from_line(Revision, line) for line in read_lines(folders[0] / "records.jsonl")]
    pairs = [from_line(Preference, line) for line in read_lines(folders[1] / "records.jsonl")]
    assert revisions and pairs
    assert {record.lineage.frames for record in (*revisions, *pairs)} == {paper_digest()}
    assert all(len(revision.rounds) == 2 for revision in revisions)
    assert [event.kind for event in run_pipeline(on_random, run)][1:-1] == ["stage_skipped"] * 2


def test_another_style_is_another_stage_folder(on_random: Pipeline, tmp_path: Path) -> None:
    run = tmp_path / "run"
    list(run_pipeline(on_random, run))
    list(run_pipeline(load_pipeline(on_random.path, ["stages.1.prefer.style=chat"]), run))
    folders = [folder.name[:9] for folder in sorted((run / "stages").iterdir())]
    assert folders == ["01-revise", "02-prefer", "02-prefer"]
    frames = {line for f in run.glob("stages/02-*") for line in read_lines(f / "records.jsonl")}
    assert {from_line(Preference, line).lineage.frames for line in frames} == {paper_digest(), frames_digest()}


def test_the_plan_counts_the_tokens_of_the_style(on_random: Pipeline, random_model: Path) -> None:
    """No text that the stages really send is longer than planned, and the plan is not far off."""
    from transformers import AutoTokenizer

    chat = ChatFormat(AutoTokenizer.from_pretrained(random_model), "random", None, "2026-01-01", None)
    revise, prefer = works_of(on_random, token_counter(random_model))
    constitution, answer = on_random.constitution, "x" * NEW
    critiques, comparisons = critique_examples("paper", constitution), comparison_examples("paper", constitution, 3)
    longest = judged = 0
    for prompt in on_random.train:
        for p in constitution.principles:
            exchange = ask_critique("paper", critiques, prompt, answer, p.critique)
            text = ask_revision(exchange, answer, p.revision).text
            longest = max(longest, len(chat.encode_text(text)) + NEW)
            question = ask_judge("paper", comparisons, prompt, (answer, answer), p.preference, 0)
            judged = max(judged, len(chat.encode_text(question.text)))
    assert longest <= revise.longest <= longest + 64
    assert judged <= prefer.longest <= judged + 64
    in_chat = works_of(load_pipeline(on_random.path, ["stages.0.revise.style=chat"]), token_counter(random_model))
    assert in_chat[0].longest != revise.longest


@pytest.fixture
def server() -> Iterator[Served]:
    def answer(asked: Asked) -> str:
        return f"answer {asked.key[:6]}"

    with running(Served(answer=answer)) as served:
        yield served


def test_a_remote_model_that_only_chats_is_refused_before_anything_is_spent(server: Served, tmp_path: Path) -> None:
    """Only the second stage needs plain text, and yet the first asks nothing."""
    server.completions = False
    models = f"models:\n  teacher: {{url: '{server.url}', model: small}}\n"
    stages = "[{revise: {answerer: teacher, critic: teacher, rounds: 1}}, {prefer: {style: paper, judge: teacher}}]"
    pipeline = load_pipeline(written(tmp_path, models, stages))
    with pytest.raises(InputError, match="no /completions"):
        list(run_pipeline(pipeline, tmp_path / "run"))
    assert {call.words for call in server.calls} == {"Say hello."}
    server.completions = True
    assert list(run_pipeline(pipeline, tmp_path / "run"))[-1].kind == "run_finished"
    asked = [call.body["prompt"] for call in server.calls if "prompt" in call.body and not call.probes]
    assert asked and all(str(text).startswith("Consider the following conversation") for text in asked)
