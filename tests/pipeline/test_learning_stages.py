"""kto, reward, ppo, rloo and grpo as stages: what they read, what they leave behind, and that a rerun skips them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.errors import InputError, Interrupted
from cai.manifest import read_manifest
from cai.models.protocol import Choice, ChoiceRequest
from cai.pipeline import stage_policy
from cai.pipeline.reading import read_records
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.stage_policy import judge_scoring, policy_stage, rewarding
from cai.pipeline.training_configs import PpoStageConfig
from cai.records import Revision, new_prompt
from cai.train import reward_facts
from cai.train.reward_facts import FACTS
from cai.train.rollout import PromptRow, Rollout

ROOT = Path(__file__).parents[2]
HEAD = """name: learning
seed: 7
constitution: constitution.yaml
model: {base: tiny, quantization: none, lora: {rank: 4}}
prompts: {train: {from: tiny/align, limit: 24}, test: {from: tiny/test, limit: 4}}
stages:
  - revise: {rounds: 1, chunk: 24, max_new_tokens: 48}
  - prefer: {pairs: revisions, unconfirmed: keep, tie_below: 0.5, chunk: 24}
"""
LEARNING = """  - kto: {batch_size: 4}
  - reward: {from: base, batch_size: 4, holdout: 0.25}
  - ppo: {samples: 2, batch_size: 12, minibatches: 2, max_new_tokens: 24, learning_rate: 1e-4}
  - rloo: {samples: 2, batch_size: 12, max_new_tokens: 24, reward: 04-reward}
  - grpo: {reward: judge, principles: drawn, samples: 2, batch_size: 12, max_new_tokens: 24}
  - evaluate: {chunk: 4, judge_pairs: 0}
"""


def written(folder: Path, stages: str) -> Pipeline:
    shutil.copy(ROOT / "constitutions" / "tiny.yaml", folder / "constitution.yaml")
    path = folder / "pipeline.yaml"
    path.write_text(HEAD + stages)
    return load_pipeline(path)


def stages_of(run: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in sorted((run / "stages").iterdir())}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learning")
    for _ in run_pipeline(written(folder, LEARNING), folder / "run"):
        pass
    return folder / "run"


def test_every_stage_leaves_an_adapter_a_curve_and_a_ledger_that_closes(run: Path) -> None:
    stages = stages_of(run)
    assert list(stages)[2:7] == ["03-kto", "04-reward", "05-ppo", "06-rloo", "07-grpo"]
    for name in list(stages)[2:7]:
        manifest = read_manifest(stages[name])
        assert manifest is not None
        assert manifest.counts["inputs"] == manifest.counts["outputs"] + manifest.counts["rejects"]
        steps = [json.loads(line) for line in (stages[name] / "metrics.jsonl").read_text().splitlines()]
        assert steps and all("loss" in step for step in steps)
        assert (stages[name] / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((stages["04-reward"] / "adapter" / "reward.json").read_text())["held_out"] >= 1
    assert (stages["05-ppo"] / "value" / "adapter_model.safetensors").is_file()
    for name in ("05-ppo", "06-rloo", "07-grpo"):
        assert "reward" in json.loads((stages[name] / "metrics.jsonl").read_text().splitlines()[0])


def test_each_goes_on_from_the_model_before_it_and_the_reward_model_is_none_of_them(run: Path) -> None:
    inputs = {name: read_manifest(folder).inputs for name, folder in stages_of(run).items()}
    made = {name: _weights(folder) for name, folder in stages_of(run).items() if (folder / "adapter").is_dir()}
    assert "adapter start" not in inputs["03-kto"] and "adapter start" not in inputs["04-reward"]
    assert len({inputs["05-ppo"]["adapter start"], inputs["06-rloo"]["adapter start"], made["03-kto"]}) == 3
    assert inputs["05-ppo"]["adapter reward"] == inputs["06-rloo"]["adapter reward"]
    assert "adapter reward" not in inputs["07-grpo"] and "constitution" in inputs["07-grpo"]
    report = json.loads((run / "report.json").read_text())
    assert all(set(row["values"]) <= {"base", "tuned"} for row in report["metrics"])


def test_a_rerun_skips_what_is_done(run: Path) -> None:
    pipeline = load_pipeline(run.parent / "pipeline.yaml")
    kinds = [event.kind for event in run_pipeline(pipeline, run)]
    assert kinds.count("stage_skipped") == 8 and "stage_started" not in kinds


def test_a_run_stopped_within_a_policy_stage_ends_as_if_it_never_was(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    for name, folder in stages_of(copied).items():
        if name >= "05":
            shutil.rmtree(folder)
    pipeline = load_pipeline(run.parent / "pipeline.yaml")
    seen = 0

    def stop() -> bool:
        nonlocal seen
        seen += bool(list(copied.glob("stages/05-ppo-*/metrics.jsonl")))
        return seen > 3

    with pytest.raises(Interrupted):
        list(run_pipeline(pipeline, copied, stop))
    list(run_pipeline(pipeline, copied))
    ours, theirs = stages_of(copied), stages_of(run)
    for name in ("05-ppo", "06-rloo", "07-grpo"):
        for file in ("metrics.jsonl", "adapter/adapter_model.safetensors", "records.jsonl"):
            assert (ours[name] / file).read_bytes() == (theirs[name] / file).read_bytes(), (name, file)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("ppo: {}", "must name a reward model that stands before it, got reward; put a reward stage above it"),
        ("grpo: {reward: kind}", "got kind; put a reward stage"),
        ("grpo: {samples: 1, reward: judge}", "samples"),
        ("rloo: {reward: judge, judge: nobody}", "must name base or one of models as its judge"),
        ("ppo: {method: grpo, reward: judge}", "method"),
        ("reward: {from: sft}", "must name an earlier training stage"),
    ],
)
def test_a_stage_without_what_it_needs_is_refused_when_the_file_is_read(tmp_path: Path, stage: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        written(tmp_path, f"  - {stage}\n")
    assert told in str(refused.value)


def test_a_reward_model_that_knows_nothing_teaches_nothing(run: Path, tmp_path: Path) -> None:
    """Refused before anything is loaded: there is no desk to load it at."""
    coin = tmp_path / "04-reward-coin" / "adapter"
    shutil.copytree(stages_of(run)["04-reward"] / "adapter", coin)
    facts = json.loads((coin / FACTS).read_text())
    (coin / FACTS).write_text(json.dumps({**facts, "accuracy": 0.52, "held_out": 50}))
    inputs: Any = SimpleNamespace(name="05-ppo", reward=coin, prompts=())
    nothing: Any = None
    with pytest.raises(InputError, match=r"04-reward-coin.*its 50 held-out pairs no better than a coin"):
        next(policy_stage(PpoStageConfig(), inputs, tmp_path, nothing))
    with pytest.raises(AttributeError):
        next(policy_stage(PpoStageConfig(unproven_reward="allow"), inputs, tmp_path, nothing))


class Opinion:
    """A judge that likes short answers, and says so by its probabilities."""

    name = fingerprint = "opinion"

    def choose(self, requests: list[ChoiceRequest]) -> list[Choice]:
        liked = [9 if "short" in request.messages[-1].content else 0 for request in requests]
        return [Choice(tuple(0.0 if i == k else -50.0 for i in range(10))) for k in liked]


def test_the_judge_s_scores_become_rewards_between_minus_one_and_one() -> None:
    from cai.constitution.model import load_constitution

    constitution = load_constitution(ROOT / "constitutions" / "tiny.yaml")
    prompts = [new_prompt("How do I water a fern?"), new_prompt("How do I feed a cat?")]
    rows = [PromptRow(prompt.id, prompt.messages, (1,)) for prompt in prompts]
    rollouts = [Rollout(rows[0], 0, "a short answer", None, "stop"), Rollout(rows[1], 0, "a lengthy one", None, "stop")]
    reward = rewarding(prompts, judge_scoring(lambda _: constitution.for_use("judge"), Opinion(), 3))
    assert reward(rollouts) == pytest.approx([1.0, -1.0])


def test_a_judge_who_scores_revisions_no_higher_is_refused_before_the_first_update(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge with its scores turned round, on the revisions that another run made; its base and prompts are real."""
    shutil.copytree(run, tmp_path / "run")
    pipeline = written(tmp_path, LEARNING)
    graded = stages_of(tmp_path / "run")["07-grpo"]
    revised = read_records(Revision, [stages_of(run)["01-revise"]])
    shutil.rmtree(graded)
    real = stage_policy.judge_scoring

    def turned(*given: Any) -> stage_policy.Scoring:
        scoring = real(*given)
        return lambda answers: [-value for value in scoring(answers)]

    monkeypatch.setattr(stage_policy, "judge_scoring", turned)
    monkeypatch.setattr(reward_facts, "TELLING", 4)
    assert sum(each.final != each.initial for each in revised) >= 4
    with pytest.raises(InputError, match=r"07-grpo: the judge's score: it scores \d+ revisions no higher.*unproven"):
        list(run_pipeline(pipeline, tmp_path / "run"))
    monkeypatch.setattr(stage_policy, "judge_scoring", real)
    notices = [event.data["text"] for event in run_pipeline(pipeline, tmp_path / "run") if event.kind == "notice"]
    assert any("the judge scores a revision +" in notice for notice in notices)


def _weights(stage: Path) -> str:
    manifest = read_manifest(stage)
    return manifest.files["adapter/adapter_model.safetensors"].sha256
