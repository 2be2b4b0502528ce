"""Plans: what stages will ask, what they need, where they fit, and that a run which does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.models.local import machine
from cai.models.local.lengths import token_counter
from cai.models.local.memory import Device, Generating, Judging, Training
from cai.models.local.spec import ModelSpec
from cai.models.tiny.weights import FOLDER
from cai.pipeline import plan as planning
from cai.pipeline import spec
from cai.pipeline.plan import Plan, make_room, plan, plan_as_json, rates_of
from cai.pipeline.plan_model import model_plan, model_plan_as_json
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.work import works_of
from tests.models.shapes import LLAMA_8B

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"


@pytest.fixture
def quickstart() -> Pipeline:
    return load_pipeline(QUICKSTART)


@pytest.fixture
def made(quickstart: Pipeline) -> Plan:
    return plan(quickstart, "cuda")


def test_calls_are_counted_as_the_stages_make_them(quickstart: Pipeline) -> None:
    """1,000 prompts: an answer and, in each of 3 rounds, a critique and a revision. Each pair is judged by each of
    the principles in both orders. Two samples of each prompt; three models answer 880 prompts."""
    works = works_of(quickstart, token_counter(FOLDER))
    principles = len(quickstart.constitution.for_use("judge"))
    assert [work.stage for work in works] == [stage.name for stage in quickstart.stages]
    revise, revisions, sft, samples, dpo, evaluate = works
    assert (revise.answers, revise.new_tokens) == (7000, 7000 * 64)
    assert (revisions.judgements, revisions.answers) == (2 * principles * 1000, 0)
    assert (samples.answers, samples.judgements) == (2000, 2 * principles * 1000)
    assert (sft.updates, dpo.updates) == (8 * 32, 63)
    assert evaluate.answers == 3 * 880
    assert evaluate.judgements == 2 * principles * 400


def test_the_largest_batches_are_those_of_the_engine(quickstart: Pipeline) -> None:
    works = works_of(quickstart, token_counter(FOLDER))
    generating = works[0].batches[0]
    assert isinstance(generating, Generating)
    assert (generating.rows, generating.reply) == (64, 64)
    judging = works[1].batches[0]
    assert isinstance(judging, Judging)
    assert judging.rows * judging.length <= 2048 < (judging.rows + 1) * judging.length
    training = works[4].batches[0]
    assert isinstance(training, Training)
    assert training.rows % 2 == 0
    of_one_pair = 2 * training.length - training.shared
    assert training.tokens <= 4096 < training.tokens + of_one_pair
    assert training.continued, "it goes on from the supervised adapter"
    assert [work.adapters for work in works] == [0, 0, 0, 1, 1, 2]


def test_what_another_run_made_needs_the_memory_that_a_stage_of_this_one_would(
    quickstart: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = works_of(quickstart, token_counter(FOLDER))
    monkeypatch.setattr(spec, "find_final", lambda _name: object())
    overrides = ["stages.3.prefer.from=other/sft", "stages.4.dpo.from=other/sft"]
    works = works_of(load_pipeline(QUICKSTART, overrides), token_counter(FOLDER))
    assert [work.batches for work in works] == [work.batches for work in own]
    assert [work.adapters for work in works] == [0, 0, 0, 1, 1, 3]


def test_a_plan_is_json_and_its_numbers_add_up(made: Plan) -> None:
    told = json.loads(json.dumps(plan_as_json(made, card=8)))
    assert told["advice"] == ["all of it fits a card of 8 GB"]
    assert told["bytes"] == max(stage["bytes"] for stage in told["stages"])
    for stage in told["stages"]:
        assert all(phase["bytes"] == sum(phase["parts"].values()) for phase in stage["phases"])
        assert all(phase["cards"] == [8, 16, 24, 48, 80] for phase in stage["phases"])
    assert told["seconds"] is None


def test_an_earlier_run_tells_the_time(quickstart: Pipeline, tmp_path: Path) -> None:
    """A stage took 30 s for 60 inputs, so 1,000 take 500 s; one that was resumed tells nothing."""
    (tmp_path / "run.yaml").write_text("pipeline: {name: small, stages: [{revise: {}}, {sft: {}}]}\n")
    events = [
        (0, "run_started", "", {}),
        (1, "stage_started", "01-revise", {"folder": "01-revise-x", "resumed": False}),
        (31, "stage_finished", "01-revise", {"folder": "01-revise-x", "counts": {"inputs": 60, "outputs": 60}}),
        (32, "stage_started", "02-sft", {"folder": "02-sft-x", "resumed": True}),
        (33, "stage_finished", "02-sft", {"folder": "02-sft-x", "counts": {"inputs": 60, "outputs": 60}}),
    ]
    lines = [json.dumps({"time": t, "kind": k, "stage": s, "data": d}) + "\n" for t, k, s, d in events]
    (tmp_path / "events.jsonl").write_text("".join(lines))
    assert rates_of(tmp_path) == {"revise": 0.5}
    told = plan(quickstart, "cuda", tmp_path)
    assert [stage.seconds for stage in told.stages] == [500.0, None, None, None, None, None]
    assert told.seconds is None, "a sum of which a part is missing is none"


def test_a_run_that_does_not_fit_is_refused_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quickstart = load_pipeline(QUICKSTART, ["stages.4.dpo.micro_tokens=32768", "stages.4.dpo.batch_size=64"])
    whole = plan(quickstart, "cpu")
    training = max(whole.stages, key=lambda stage: stage.bytes)
    room = training.bytes - whole.loading.of("before loading") - 1
    monkeypatch.setattr(planning, "free_memory", lambda _device: room)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(planning, "suit_memory", lambda *numbers: asked.append(numbers))
    with pytest.raises(InputError) as caught:
        make_room(quickstart, quickstart.stages)
    told = str(caught.value)
    assert f"stage {training.work.stage}: training needs " in told
    assert "; set micro_tokens: " in told
    assert told.endswith("--no-memory-check tries it all the same")
    make_room(quickstart, [stage for stage in quickstart.stages if stage.name != training.work.stage])
    make_room(quickstart, quickstart.stages, check=False)
    monkeypatch.setattr(planning, "free_memory", lambda _device: room + 1)
    make_room(quickstart, quickstart.stages)
    assert (training.bytes, training.bytes) in asked, "the largest stage's need, and the room for it"


def test_a_narrow_room_narrows_what_is_generated_together_and_is_refused_only_below_the_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of some 1,600 positions each, 65,536 have room for 40 rows, and the least that is planned for, 2,048, for one."""
    pipeline = load_pipeline(QUICKSTART, ["stages.0.revise.max_new_tokens=512", "model.quantization=none"])
    roomy = plan(pipeline, "cpu", card=80).stages[0].phases[0]
    assert (roomy.batch.rows, roomy.least.rows) == (40, 1)
    held = plan(pipeline, "cpu").loading.of("before loading")
    revise = [pipeline.stages[0]]
    for room, refused in ((roomy.need.bytes - 1, False), (roomy.least_need.bytes, False), (held + 1, True)):
        monkeypatch.setattr(planning, "free_memory", lambda _device, room=room: room - held)
        monkeypatch.setattr(planning, "suit_memory", lambda *_numbers: None)
        if not refused:
            make_room(pipeline, revise)
            continue
        with pytest.raises(InputError, match="stage 01-revise: generating needs "):
            make_room(pipeline, revise)


def test_a_plan_says_how_much_is_generated_together_where_it_is_planned_for(tmp_path: Path) -> None:
    """Of an 8B model's rows a larger card takes more together, and a card of 8 GB the least there are."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    override = [f"model.base={tmp_path}", "stages.0.revise.max_new_tokens=512", "stages.0.revise.chunk=128"]
    pipeline = load_pipeline(QUICKSTART, override)
    found = {card: plan(pipeline, "cuda", card=card).stages[0].phases[0] for card in (8, 24, 80)}
    rows = [phase.batch.rows for phase in found.values()]
    assert rows == sorted(rows) and rows[0] < rows[1] < rows[2]
    told = plan_as_json(plan(pipeline, "cuda", card=24))["stages"][0]["phases"][0]  # type: ignore[index]
    assert (told["rows"], told["least_rows"]) == (rows[1], found[8].least.rows)
    assert told["cards"] == [8, 16, 24, 48, 80]


def test_a_plan_is_for_the_precision_that_the_pipeline_asks_for(quickstart: Pipeline, made: Plan) -> None:
    def planned(precision: str, device: Device) -> Plan:
        return plan(load_pipeline(QUICKSTART, [f"model.precision={precision}"]), device)

    assert planned("bf16", "cuda").bytes == made.bytes < planned("fp32", "cuda").bytes
    assert planned("fp32", "cpu").bytes == plan(quickstart, "cpu").bytes > planned("bf16", "cpu").bytes


def test_a_model_that_is_elsewhere_is_planned_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    made = model_plan(str(tmp_path / "config.json"), None, "cuda")
    told = model_plan_as_json(made, card=24)
    assert told["parameters"] == 8_030_261_248
    loads = {row.quantization: row.need.bytes for row in made.rows if row.work is None}
    assert loads["nf4"] < loads["int8"] < loads["none"]
    assert any("set micro_tokens: " in line for line in made.advice(24))


def test_lengths_are_guessed_high_where_there_is_no_tokenizer() -> None:
    text = "How do I get rid of weeds between paving stones without poison?"
    assert token_counter(None)(text) >= token_counter(FOLDER)(text)


def test_free_memory_is_less_than_all_of_it() -> None:
    assert 0 < machine.free_memory() < machine.total_memory()


def test_the_spec_of_a_plan_is_the_pipelines(made: Plan) -> None:
    assert made.spec == replace(ModelSpec("tiny"), lora=made.spec.lora)
