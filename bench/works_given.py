"""What the trainings of `works` are given: judged pairs, prompts and the adapter that policies begin with; with labels
and rewards as they are, or shuffled."""

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.parts import FAMILIES, ROOT, Bench, flip, quickstart_stage
from cai.models.tiny.oracle import judge_pairs
from cai.pipeline.spec import Pipeline
from cai.records import Preference, Prompt, Revision, from_line
from cai.seeds import derive, uniform
from cai.strict_yaml import read_yaml

if TYPE_CHECKING:
    from cai.models.local.workbench import Workbench
    from cai.pipeline.stage_policy import Answered, Scoring
    from cai.train.reference import PairRow

TUNED_ON = 176
"""Answers that the start of policies was fine-tuned on."""
OTHERS = 1400
"""Pairs of other models' answers."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a training is given."""

    workbench: "Workbench"
    preferences: Sequence[Preference]
    prompts: Sequence[Prompt]
    seed: int
    folder: Path
    rewards: Path
    """Where the reward model of these labels and this seed is, or is to be."""
    start: Path | None = None
    """The adapter that policies begin with."""
    revisions: Sequence[Revision] = ()
    """Those that a judge's scores are tried on."""
    shuffled: bool = False
    """Whether labels are; rewards that come from no labels are then dealt out anew among each prompt's answers, as the
    labels of a pair are among its two."""

    def pairs(self, others: bool = False) -> "list[PairRow]":
        """Those of the model's own answers, or those of other models'."""
        from cai.train.reference import PairRow

        rows = []
        for each in self.preferences:
            if each.origin.startswith("imported") != others:
                continue
            chosen, rejected = (
                self.workbench.encode(each.prompt.messages, answer) for answer in (each.chosen, each.rejected)
            )
            rows.append(PairRow(each.id, chosen, rejected, each.p_chosen))
        return rows


def never() -> bool:
    return False


def revised(work: Path) -> list[Revision]:
    """What `made_pairs` had revised."""
    paths = (work / "pairs" / "stages").glob("*-revise-*/records.jsonl")
    return [from_line(Revision, line) for path in paths for line in path.read_text("utf-8").splitlines()]


def short_tuning(work: Path, workbench: "Workbench") -> Path:
    """An adapter from a few revisions and helpful answers, which now and then refuses what it should."""
    from cai.pipeline.sft_rows import select_examples
    from cai.pipeline.training_configs import SftStageConfig
    from cai.train.config import SftConfig
    from cai.train.sft import SftRow, train_sft

    chosen = select_examples(revised(work), SftStageConfig(helpful=1), 17).examples[:TUNED_ON]
    rows = [SftRow(each.id, workbench.encode(each.prompt.messages, each.completion)) for each in chosen]
    trainee = workbench.trainee(None, 17)
    for _ in train_sft(SftConfig(learning_rate=1e-3, batch_size=16), rows, trainee, work / "start", never):
        pass
    workbench.release(trainee)
    return work / "start" / "adapter"


def made_pairs(work: Path) -> tuple[list[Preference], tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The judged pairs that trainings may use, the prompts that they are about, and the test prompts."""
    from cai.pipeline.runner import run_pipeline

    sampled = {"prefer": {**dict(quickstart_stage("prefer", 1)["prefer"]), "from": "base"}}  # type: ignore[call-overload]
    stages = [quickstart_stage("revise"), quickstart_stage("prefer"), sampled]
    pipeline = Bench(work, 17).pipeline("pairs", stages=stages)
    others = [others_judged(work, principle) for principle in FAMILIES]
    for each in (pipeline, *others):
        for event in run_pipeline(each, work / each.spec.name):
            if event.kind == "stage_finished":
                print(f"    {each.spec.name} {event.stage} {event.data['counts']}", file=sys.stderr, flush=True)
    paths = [path for each in (pipeline, *others)
             for path in sorted((work / each.spec.name / "stages").glob("*-prefer-*/records.jsonl"))]  # fmt: skip
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines()]
    found = {p.id: p for p in (from_line(Preference, line) for line in lines) if p.kind == "preferred"}
    return list(found.values()), pipeline.train, pipeline.test


def others_judged(work: Path, principle: str) -> Pipeline:
    """Answers of the alignment split that serve, refuse, claim or admit, in pairs without their labels, judged by the
    one principle that they are about, as helpfulness and harmlessness are compared apart."""
    lines = []
    for pair in judge_pairs("align", OTHERS):
        if pair.family != FAMILIES[principle]:
            continue
        turned = uniform(derive("others", pair.prompt.id, pair.better), 0) < 0.5
        first, second = (pair.worse, pair.better) if turned else (pair.better, pair.worse)
        lines.append(json.dumps({"prompt": pair.prompt.messages[-1].content, "chosen": first, "rejected": second}))
    path, own = work / f"others-{principle}.jsonl", work / f"{principle}-constitution.yaml"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    data = read_yaml(ROOT / "constitutions" / "tiny.yaml").data
    assert isinstance(data, dict)
    own.write_text(
        json.dumps({**data, "id": principle, "principles": [p for p in data["principles"] if p["id"] == principle]})
    )
    stages = [{"prefer": {"pairs": "imported", "file": str(path)}}]
    return Bench(work, 17).pipeline(f"others-{principle}", stages=stages, constitution=str(own))


def shuffled(preferences: Sequence[Preference], seed: int) -> list[Preference]:
    """Half of the pairs of each kind turned round, so that labels say exactly nothing."""
    kinds = {p.id: p.origin.partition(":")[0] for p in preferences}
    order = sorted(preferences, key=lambda p: (kinds[p.id], uniform(derive("shuffled", seed, p.id), 0)))
    turned = {p.id for p in order[::2]}
    return [flip(p) if p.id in turned else p for p in preferences]


def dealt_anew(scoring: "Scoring", seed: int) -> "Scoring":
    """The same scores, each given to some answer to the same prompt."""

    def dealt(answers: "Sequence[Answered]") -> list[float]:
        scores = scoring(answers)
        places: dict[str, list[int]] = {}
        for i, (prompt, _) in enumerate(answers):
            places.setdefault(prompt.id, []).append(i)
        given = dict[int, float]()
        for own in places.values():
            draws = random.Random(derive(seed, *(answers[i][1] for i in own)))
            given |= dict(zip(own, draws.sample([scores[i] for i in own], len(own)), strict=True))
        return [given[i] for i in range(len(answers))]

    return dealt
