"""What a model said once in a run is not asked again: an edited principle costs only the rows that drew it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cai.constitution.model import draw_principle, load_constitution
from cai.errors import Interrupted
from cai.files import sha256_of
from cai.models.local.view import LocalModel
from cai.models.protocol import Choice, ChoiceRequest, Reply, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.pipeline.calls import READ, Calls, Remembering
from cai.pipeline.reading import read_records
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.records import Message, Preference, Revision

PRINCIPLES, ROUNDS, PROMPTS = 16, 2, 24
EDITED = "rule-05"
Write = Callable[[str], Path]


@pytest.fixture
def write(random_model: Path, tmp_path: Path) -> Write:
    """`write("…")`: the pipeline on sixteen principles, of which the sixth asks for this."""

    def make(asks: str) -> Path:
        principles = [
            {
                "id": f"rule-{n:02d}",
                "critique": f"Say what {asks if f'rule-{n:02d}' == EDITED else f'rule {n}'} would change.",
                "revision": f"Rewrite the answer by rule {n}.",
                "preference": f"Which answer keeps rule {n}?",
            }
            for n in range(PRINCIPLES)
        ]
        constitution = {"id": "sixteen", "version": "1.0.0", "title": "Sixteen", "principles": principles}
        (tmp_path / "constitution.yaml").write_text(json.dumps(constitution), encoding="utf-8")
        path = tmp_path / "calls.yaml"
        path.write_text(
            f"name: calls\nseed: 3\nconstitution: {tmp_path}/constitution.yaml\n"
            f"model: {{base: {random_model}, quantization: none}}\n"
            f"prompts: {{train: {{from: tiny/align, limit: {PROMPTS}}}}}\n"
            f"stages: [{{revise: {{rounds: {ROUNDS}, chunk: 8, max_new_tokens: 24}}}}, "
            "{prefer: {principles: drawn, unconfirmed: keep, chunk: 8}}]\n",
            encoding="utf-8",
        )
        return path

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request | ChoiceRequest]:
    """Everything that reaches the real model."""
    requests: list[Request | ChoiceRequest] = []
    generate, choose = LocalModel.generate, LocalModel.choose

    def generated(model: LocalModel, given: Sequence[Request]) -> list[Reply]:
        requests.extend(given)
        return generate(model, given)

    def chosen(model: LocalModel, given: Sequence[ChoiceRequest]) -> list[Choice]:
        requests.extend(given)
        return choose(model, given)

    monkeypatch.setattr(LocalModel, "generate", generated)
    monkeypatch.setattr(LocalModel, "choose", chosen)
    return requests


def run(path: Path, out: Path) -> list[str]:
    events = list(run_pipeline(load_pipeline(path), out))
    return [str(event.data["text"]) for event in events if event.kind == "notice" and "not again" in str(event.data)]


def test_editing_one_of_sixteen_principles_asks_anew_only_for_the_rows_that_drew_it(
    write: Write, asked: list[Request | ChoiceRequest], tmp_path: Path
) -> None:
    path, out = write("the sixth rule"), tmp_path / "run"
    run(path, out)
    before = len(asked)
    first = {row.prompt.id: row for row in read_records(Revision, out.glob("stages/01-*"))}
    pairs = {row.id for row in read_records(Preference, out.glob("stages/02-*"))}
    old = set(out.glob("stages/*"))
    asked.clear()

    path = write("another sixth rule")
    constitution = load_constitution(tmp_path / "constitution.yaml")
    drew = {
        row: [n for n in range(1, ROUNDS + 1) if draw_principle(constitution, 3, row, n).id == EDITED] for row in first
    }
    affected = {row: rounds[0] for row, rounds in drew.items() if rounds}
    assert 0 < len(affected) < PROMPTS / 2
    notices = run(path, out)
    new = [folder for folder in out.glob("stages/*") if folder not in old]
    second = {row.prompt.id: row for row in read_records(Revision, [f for f in new if f.name.startswith("01")])}

    assert {row for row in second if second[row] != first.get(row) and second[row].rounds != first[row].rounds} <= set(
        affected
    )
    generated = [request for request in asked if isinstance(request, Request)]
    most = sum(2 * (ROUNDS - round_ + 1) for round_ in affected.values())
    assert 2 * len(affected) <= len(generated) <= most < before / 3
    judged = [request for request in asked if isinstance(request, ChoiceRequest)]
    changed = {row.id for row in read_records(Preference, [f for f in new if f.name.startswith("02")])} - pairs
    assert len(judged) <= 2 * max(len(changed), len(affected))
    assert len(notices) == 2
    assert all("made before" in text for text in notices)


def test_nothing_is_recalled_within_a_first_run_and_a_stopped_stage_ends_in_the_same_bytes(
    write: Write, tmp_path: Path
) -> None:
    run(write("the sixth rule"), tmp_path / "whole")
    path = write("the sixth rule")
    polls = iter(range(1000))
    with pytest.raises(Interrupted):
        list(run_pipeline(load_pipeline(path), tmp_path / "cut", lambda: next(polls) == 2))
    assert run(path, tmp_path / "cut") == []
    for name in ("records.jsonl", "rejects.jsonl", "calls.jsonl", READ):
        (whole,), (cut,) = (list((tmp_path / run).glob(f"stages/01-*/{name}")) for run in ("whole", "cut"))
        assert sha256_of(whole) == sha256_of(cut), name


def test_a_resumed_stage_recalls_no_more_than_it_saw_when_it_began(write: Write, tmp_path: Path) -> None:
    """The edited run is stopped; then the first one, which it recalls, goes on: the edited one must not see that."""
    out = tmp_path / "run"
    polls = iter(range(1000))
    with pytest.raises(Interrupted):
        list(run_pipeline(load_pipeline(write("the sixth rule")), out, lambda: next(polls) == 1))
    polls = iter(range(1000))
    with pytest.raises(Interrupted):
        list(run_pipeline(load_pipeline(write("another sixth rule")), out, lambda: next(polls) == 1))
    seen = {path.parent.name: json.loads(path.read_text()) for path in out.glob(f"stages/*/{READ}")}
    run(write("the sixth rule"), out)
    again = {name: json.loads((out / "stages" / name / READ).read_text()) for name in seen}
    assert again == seen
    assert sorted(map(len, seen.values())) == [0, 1]


def test_equal_requests_are_told_apart_by_model_sampling_and_seed(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "stage")
    said: list[Request] = []

    def answer(request: Request) -> str:
        said.append(request)
        return f"reply {len(said)}"

    request = Request((Message("user", "Why?"),), Sampling(max_new_tokens=5), 1)
    one, other = (Remembering(ScriptedModel(answer, name=name), calls) for name in ("one", "other"))
    others = [Request(request.messages, Sampling(max_new_tokens=6), 1), Request(request.messages, request.sampling, 2)]
    texts = [reply.text for reply in one.generate([request, *others]) if isinstance(reply, Reply)]
    assert texts == ["reply 1", "reply 2", "reply 3"]
    assert [reply.text for reply in one.generate([request, *others]) if isinstance(reply, Reply)] == texts
    assert [reply.text for reply in other.generate([request]) if isinstance(reply, Reply)] == ["reply 4"]
    assert calls.recalled == 3


def test_a_label_that_cannot_be_said_is_remembered_as_such(tmp_path: Path) -> None:
    model = ScriptedModel([], lambda _: [0.0, -float("inf")])
    remembering = Remembering(model, Calls(tmp_path / "stage"))
    request = ChoiceRequest((Message("user", "A or B?"),), ("A", "B"))
    assert remembering.choose([request]) == remembering.choose([request]) == model.choose([request])
