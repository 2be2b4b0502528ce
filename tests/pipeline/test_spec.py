"""Pipeline files: what is read, what `--set` changes, and every way to be refused."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.pipeline.configs import ReviseConfig
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.training_configs import DpoStageConfig
from cai.records import new_prompt
from cai.store.formats.prompts import read_prompts

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(stages="…", prompts="…")`: a pipeline file in a folder of its own, with those parts replaced."""

    def make(stages: str = "[revise, evaluate]", prompts: str = "{train: tiny/align, test: tiny/test}") -> Path:
        path = tmp_path / "p.yaml"
        constitution = ROOT / "constitutions" / "tiny.yaml"
        text = f"name: p\nconstitution: {constitution}\nmodel: {{base: tiny}}\nprompts: {prompts}\nstages: {stages}\n"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_pipeline(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_pipeline_is_sound(path: Path) -> None:
    assert load_pipeline(path).stages


def test_each_stage_finds_its_sources() -> None:
    stages = load_pipeline(QUICKSTART, ["prompts.train.limit=8", "stages.4.dpo.pairs=all"]).stages
    sources = [stage.sources for stage in stages]
    assert [stage.kind for stage in stages] == ["revise", "prefer", "sft", "prefer", "dpo", "evaluate"]
    assert sources[1].revisions == sources[2].revisions == (1,)
    assert sources[3].start == sources[4].start == 3
    assert sources[4].preferences == (2, 4)
    assert sources[5].models == {"base": None, "sft": 3, "tuned": 5}


def test_without_a_training_stage_the_base_samples_and_is_trained(write: Callable[..., Path]) -> None:
    stages = "[{prefer: {pairs: samples}}, dpo, evaluate]"
    pipeline = load_pipeline(write(stages))
    assert pipeline.stages[0].sources.start is None
    assert pipeline.stages[1].sources.start is None
    assert pipeline.stages[2].sources.models == {"base": None, "tuned": 2}


def test_dpo_can_be_told_to_start_from_the_base_and_to_read_some_pairs_only(write: Callable[..., Path]) -> None:
    stages = (
        "[revise, {prefer: {pairs: revisions}}, sft, {prefer: {pairs: samples}}, {dpo: {from: base, pairs: revisions}}]"
    )
    dpo = load_pipeline(write(stages)).stages[4]
    assert dpo.sources.start is None
    assert dpo.sources.preferences == (2,)


def test_set_replaces_one_value_and_reaches_into_short_forms() -> None:
    overrides = ["stages.0.revise.rounds=3", "prompts.train.limit=8", "stages.4.dpo.beta=0.2", "model.lora.rank=8"]
    pipeline = load_pipeline(QUICKSTART, overrides)
    revise, dpo = pipeline.stages[0].config, pipeline.stages[4].config
    assert isinstance(revise, ReviseConfig)
    assert revise.rounds == 3
    assert isinstance(dpo, DpoStageConfig)
    assert dpo.beta == 0.2
    assert len(pipeline.train) == 8
    assert pipeline.model.lora.rank == 8


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.0.revise.round=3", "unknown key 'round'; did you mean 'rounds'?"),
        ("stages.0.revies.rounds=3", "stages.0 has no 'revies'; did you mean 'revise'?"),
        ("stages.0.revise.rounds=x", "must be a whole number, got x"),
        ("stages.9.revise.rounds=3", "must name a position from 0 to 5 here, got 9"),
        ("stages=[revis]", "there is no such stage kind, got revis; did you mean 'revise'?"),
        ("stages.3.prefer.from=ppo", "must name an earlier training stage, got ppo; known here: base, sft, 03-sft"),
        ("stages.1.prefer.from=sft", "pairs of revisions are not sampled from a model"),
        ("stages.0=dpo", "needs a 'prefer' stage before it"),
        ("stages=[]", "must have at least 1 entries"),
        ("stages.5.evaluate.suites=[x]", "there is no such suite, got x; known here: tiny"),
        ("nam=x", "unknown key 'nam'; did you mean 'name'?"),
        ("name=a/b", "must be letters, digits"),
        ("model.lora.rank=0", "rank and alpha must be 1 or more, got 0"),
        ("model.quantization=nf3", "model.quantization must be"),
        ("model.precision=fp16", "model.precision must be 'auto', 'fp32' or 'bf16', got fp16; did you mean"),
        ("prompts.test=null", "stage 'evaluate' needs prompts.test"),
        ("prompts.train=nowhere.jsonl", "there is no such file, got nowhere.jsonl"),
        ("constitution=nowhere.yaml", "there is no such file, got nowhere.yaml"),
        ("seed", "must look like a.b=value"),
    ],
)
def test_a_wrong_set_is_refused_under_its_own_name(override: str, told: str) -> None:
    message = refusal(QUICKSTART, "prompts.train.limit=8", override)
    assert message.startswith(f"--set {override}: ")
    assert told in message


def test_an_error_of_the_file_is_told_by_its_line_whatever_is_set(write: Callable[..., Path]) -> None:
    path = write("[{revise: {round: 2}}, evaluate]")
    message = refusal(path, "seed=3")
    assert message.startswith(f"{path}:5:20: unknown key 'round'")


def test_a_stage_is_one_kind(write: Callable[..., Path]) -> None:
    assert "stages[0] must be one stage kind with its settings" in refusal(write("[{revise: {}, sft: {}}]"))


def test_an_empty_prompt_set_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    message = refusal(write("[revise]", "{train: empty.txt}"))
    assert "prompts.train is empty, got empty.txt; put at least one prompt in it" in message


def test_a_constitution_that_cannot_do_a_stage_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "judge-only.yaml"
    path.write_text(
        "id: judge-only\nversion: 1.0.0\ntitle: t\nprinciples:\n  - {id: a, preference: Choose the shorter answer.}\n",
        encoding="utf-8",
    )
    message = refusal(write(), f"constitution={path}")
    assert "no principle has both a critique and a revision, and stage 'revise' needs one" in message
    none = tmp_path / "none.yaml"
    none.write_text("id: none\nversion: 1.0.0\ntitle: t\nprinciples: []\n", encoding="utf-8")
    assert str(none) in refusal(write(), f"constitution={none}")


def test_prompts_come_from_plain_text_and_from_json_lines_each_once(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("How do I fly?\n\n  How do I swim?  \nHow do I fly?\n", encoding="utf-8")
    rows = [
        {"prompt": "How do I fly?", "id": 3},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain = load_pipeline(write("[revise]", "{train: p.txt}")).train
    assert [p.messages[0].content for p in plain] == ["How do I fly?", "How do I swim?"]
    assert plain[0].source == "p.txt"
    conversations = load_pipeline(write("[revise]", "{train: p.jsonl}")).train
    assert [len(p.messages) for p in conversations] == [1, 2]
    assert conversations[0].id == plain[0].id
    assert len(load_pipeline(write("[revise]", "{train: {from: p.jsonl, limit: 1}}")).train) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "is not JSON"),
        ('{"text": "x"}', "prompt: is missing, and no other column holds a prompt, got text"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "messages[0].role: must be one of"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "messages: has no user message"),
        ('{"prompt": "x", "chosen": 1, "rejected": "z", "tools": 3}', "tools: must be a list of named functions"),
    ],
)
def test_a_bad_prompt_is_refused_by_its_line(write: Callable[..., Path], tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + line + "\n", encoding="utf-8")
    message = refusal(write("[revise]", "{train: p.jsonl}"))
    assert message.startswith(f"{tmp_path}/p.jsonl:2: ")
    assert told in message


def test_a_data_set_serves_as_prompts_without_its_answers(write: Callable[..., Path], tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (tmp_path / "p.json").write_text(json.dumps([{"messages": said}]), encoding="utf-8")
    [prompt] = load_pipeline(write("[revise]", "{train: p.json}")).train
    assert [message.role for message in prompt.messages] == ["user"]


def test_a_limited_embedded_set_has_as_many_of_each_class() -> None:
    pipeline = load_pipeline(QUICKSTART, ["prompts.train.limit=9", "prompts.test.limit=800"])
    assert sorted(Counter(p.source for p in pipeline.train).values()) == [2, 2, 2, 3]
    assert set(Counter(p.source for p in pipeline.test).values()) == {200}


def test_a_transcript_with_tool_calls_is_a_prompt_and_its_tools_are_part_of_it(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "21 degrees", "tool_call_id": "c"},
    ]
    lines = [{"messages": messages, "tools": [tool]}, {"messages": messages}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with_tools, without = read_prompts(tmp_path / "p.jsonl", None)
    assert (with_tools.tools, without.tools) == ((tool,), ())
    assert with_tools.messages == without.messages
    assert with_tools.messages[1].tool_calls == (call,)
    assert with_tools.id != without.id
    assert without.id == new_prompt(without.messages).id


@pytest.mark.parametrize("tools", ['{"name": "look"}', "[1]", '[{"title": "look"}]', '[{"function": {"name": 1}}]'])
def test_tools_of_another_shape_are_refused(tmp_path: Path, tools: str) -> None:
    line = f'{{"messages": [{{"role": "user", "content": "Hi"}}], "tools": {tools}}}'
    (tmp_path / "p.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.jsonl:1: tools: must be a list of named functions"):
        read_prompts(tmp_path / "p.jsonl", None)


def test_the_seed_does_not_change_the_prompts() -> None:
    first, second = (load_pipeline(QUICKSTART, ["prompts.train.limit=8", f"seed={seed}"]) for seed in (1, 2))
    assert first.train == second.train


def test_files_are_found_in_the_working_directory_first_then_beside_the_pipeline_then_above_it(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write("[revise]", "{train: p.txt}").rename(inner / "p.yaml")

    def first_prompt() -> str:
        pipeline: Pipeline = load_pipeline(inner / "p.yaml")
        return pipeline.train[0].messages[0].content

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for place in (tmp_path, inner, elsewhere):
        (place / "p.txt").write_text(f"from {place.name}\n", encoding="utf-8")
        assert first_prompt() == f"from {place.name}"


def test_suite_tiny_refuses_prompts_it_cannot_read(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("How do I fly?\n", encoding="utf-8")
    assert "suite 'tiny' only reads answers" in refusal(write("[evaluate]", "{test: p.txt}"))


def test_what_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    for text in ("", "- a\n", "just words\n"):
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        assert refusal(path).startswith(str(path))
