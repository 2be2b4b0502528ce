"""Monitors on trainings: healthy ones raise nothing, spoilt ones what they should."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cai.models.local.logprobs import TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.spec import ModelSpec
from cai.models.local.workbench import open_workbench
from cai.models.tiny.oracle import judge_pairs
from cai.seeds import derive, uniform
from cai.train.config import DpoConfig, SftConfig
from cai.train.monitors import Alarm, Watch, watch
from cai.train.optimise import Step
from cai.train.preference import train_dpo
from cai.train.reference import PairRow
from cai.train.sft import SftRow, train_sft

NewTrainee = Callable[..., Trainee]


def never() -> bool:
    return False


def trained(steps: Iterator[Step]) -> list[Alarm]:
    monitor = Watch()
    return [alarm for step in steps for alarm in monitor.see(step.metrics)]


def test_healthy_trainings_raise_no_alarm(
    new_trainee: NewTrainee, sft_rows: list[SftRow], pair_rows: list[PairRow], tmp_path: Path
) -> None:
    """Sixty-four updates of each method, and `metrics.jsonl` tells what the steps told."""
    sft = SftConfig(learning_rate=2e-3, epochs=16, batch_size=5)
    dpo = DpoConfig(learning_rate=2e-3, epochs=16, batch_size=5)
    assert trained(train_sft(sft, sft_rows, new_trainee(), tmp_path / "sft", never)) == []
    assert trained(train_dpo(dpo, pair_rows, new_trainee(), tmp_path / "dpo", never)) == []
    for folder in ("sft", "dpo"):
        lines = (tmp_path / folder / "metrics.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == 64
        assert watch([json.loads(line) for line in lines]) == []


def test_a_learning_rate_a_hundred_times_too_high_is_told(tmp_path: Path) -> None:
    """On the embedded model, which has something to lose: a random one learns at any rate."""
    workbench = open_workbench(ModelSpec("tiny", device="cpu"))
    known = judge_pairs("align", 192)
    answers = [SftRow(str(i), workbench.encode(pair.prompt.messages, pair.better)) for i, pair in enumerate(known)]
    trainee = workbench.trainee(None, seed=7)
    alarms = trained(train_sft(SftConfig(learning_rate=0.1, epochs=1, batch_size=8), answers, trainee, tmp_path, never))
    assert ("loss-explosion", 9) in [(alarm.kind, alarm.step) for alarm in alarms]


def test_labels_without_a_rule_are_told(new_trainee: NewTrainee, tmp_path: Path) -> None:
    """Both answers of a pair are drawn from the same tokens, so nothing tells chosen from rejected."""

    def tokens(*name: object) -> tuple[int, ...]:
        return tuple(int(uniform(derive(*name), place) * 64) for place in range(6))

    pairs = [
        PairRow(str(i), *(TokenRow(tokens("asked", i), tokens(side, i)) for side in ("chosen", "rejected")))
        for i in range(240)
    ]
    config = DpoConfig(learning_rate=2e-3, batch_size=5)
    alarms = trained(train_dpo(config, pairs, new_trainee(), tmp_path, never))
    assert [alarm.kind for alarm in alarms] == ["labels-teach-nothing"]


def test_labels_that_are_all_ties_are_told(new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path) -> None:
    ties = [replace(row, p_chosen=0.5) for row in pair_rows]
    config = DpoConfig(learning_rate=2e-3, batch_size=2)
    [alarm] = trained(train_dpo(config, ties, new_trainee(), tmp_path, never))
    assert (alarm.kind, alarm.step) == ("nothing-moves", 8)
    assert alarm.evidence == "grad_norm is exactly 0 over updates 1–8, and the loss is 0.693 over updates 1–8"
