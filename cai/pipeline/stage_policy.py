"""ppo, rloo and grpo: learning from the rewards of sampled answers, by a reward model or by the judge itself.

The judge's reward is its expected score of an answer from 1 to 10, by the constitution's principles, brought to −1 to
1: reinforcement learning from AI feedback without a reward model in between (Lee et al. 2023, section 3.3). No pairs
are held out that could say whether it knows anything, so it is tried on what the same constitution has revised.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.constitution.frames import SCORES
from cai.constitution.model import Principle, drawn_order
from cai.feedback.score import Rated, score
from cai.models.protocol import Model, RowError
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.probe import probe_of
from cai.pipeline.reading import read_records
from cai.pipeline.training import told, written
from cai.pipeline.training_configs import JUDGE, GrpoStageConfig, PpoStageConfig, RlooStageConfig
from cai.records import Prompt, Reject, Revision
from cai.seeds import derive, uniform
from cai.train.reward_facts import read_facts, require_better_than_chance, require_gain

if TYPE_CHECKING:
    from cai.models.local.workbench import Workbench
    from cai.train.rollout import PromptRow, RewardFn

AnyPolicyConfig = PpoStageConfig | RlooStageConfig | GrpoStageConfig
Answered = tuple[Prompt, str]
Scoring = Callable[[Sequence[Answered]], list[float]]
"""What answers are worth, each with its prompt, so that even those to one prompt can be told apart by it."""

TRIED = 64
"""Revisions that a judge's scores are tried on."""


@dataclass(frozen=True, slots=True)
class PromptUsed:
    """A prompt that was answered and learnt from; the answers are in `rollouts/`."""

    id: str


def policy_stage(config: AnyPolicyConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.actor_critic import ActorCritic
    from cai.train.policy import train_policy
    from cai.train.rewards import from_scorer

    if inputs.reward and config.unproven_reward == "refuse":
        require_better_than_chance(f"{inputs.name}: the reward model of {inputs.reward.parent.name}", inputs.reward)
    rows: list[PromptRow] = []
    rejects: list[Reject] = []
    for prompt in inputs.prompts:
        row = _row(desk.workbench(), prompt)
        if isinstance(row, RowError):
            rejects.append(Reject(prompt.id, config.method, row.reason, row.detail))
        else:
            rows.append(row)
    used = [PromptUsed(row.id) for row in rows]
    finished = written(inputs.name, folder, len(inputs.prompts), used, rejects, {"prompts": len(rows)})
    settings = config.model_copy(update={"seed": derive(inputs.seed, config.method, config.seed)})
    probe = probe_of(inputs.prompts, inputs.seed) if config.probe_every else None
    workbench = desk.workbench()
    seed = derive(inputs.seed, f"{config.method} adapter", config.seed)
    trainee = workbench.trainee(inputs.start, seed)
    scorer = workbench.scorer(inputs.reward) if inputs.reward else None
    value = workbench.scoring_trainee(inputs.reward or inputs.start, seed, "zero") if config.method == "ppo" else None
    try:
        if scorer:
            reward = from_scorer(scorer, _zero(inputs.reward))
        else:
            scoring = _judged(config, inputs, desk)
            yield from _proved(inputs, folder, scoring)
            reward = rewarding(inputs.prompts, scoring)
        actor = trainee if value is None else ActorCritic(trainee, value)
        yield from told(inputs.name, train_policy(settings, rows, actor, reward, folder, desk.stop, probe))
    finally:
        for role in (trainee, scorer, value):
            if role is not None:
                workbench.release(role)
    return finished


def judge_scoring(principles: Callable[[Prompt], Sequence[Principle]], judge: Model, seed: int) -> Scoring:
    """The mean of what the judge expects to say of an answer, over each prompt's principles by their weights."""
    low, high = float(SCORES[0]), float(SCORES[-1])

    def scoring(answers: Sequence[Answered]) -> list[float]:
        asked, owners = list[Rated](), list[int]()
        for i, (prompt, text) in enumerate(answers):
            own = [Rated(prompt, text, principle) for principle in principles(prompt)]
            asked += own
            owners += [i] * len(own)
        sums, weights = [0.0] * len(answers), [0.0] * len(answers)
        for i, each, value in zip(owners, asked, score(asked, judge, seed), strict=True):
            sums[i] += each.principle.weight * value
            weights[i] += each.principle.weight
        means = [total / weight for total, weight in zip(sums, weights, strict=True)]
        return [(2 * mean - low - high) / (high - low) for mean in means]

    return scoring


def rewarding(prompts: Sequence[Prompt], scoring: Scoring) -> "RewardFn":
    """Scores of answers as rewards of what a policy samples for these prompts."""
    by_id = {prompt.id: prompt for prompt in prompts}
    return lambda rollouts: scoring([(by_id[rollout.prompt.id], rollout.text) for rollout in rollouts])


def gains(revisions: Sequence[Revision], scoring: Scoring, seed: int) -> list[float]:
    """How much higher revisions score than the answers that they revise: of those that changed something, a draw."""
    changed = [each for each in revisions if each.final.strip() != each.initial.strip()]
    drawn = sorted(changed, key=lambda each: uniform(derive("tried", seed, each.id), 0))[:TRIED]
    scores = scoring([(each.prompt, text) for each in drawn for text in (each.initial, each.final)])
    return [after - before for before, after in zip(scores[::2], scores[1::2], strict=True)]


def _proved(inputs: Inputs, folder: Path, scoring: Scoring) -> Iterator[Event]:
    """Refuse a judge whose scores say nothing of what was revised; once, before the first update."""
    if not inputs.revisions or (folder / "checkpoints").is_dir():
        return
    found = gains(read_records(Revision, inputs.revisions), scoring, inputs.seed)
    gain = require_gain(f"{inputs.name}: the judge's score", found)
    if gain:
        text = f"the judge scores a revision {sum(found) / len(found):+.2f} above what it revises, from -1 to 1 and of"
        told = f"{text} {len(found)} (95 % interval {gain.low:+.2f} to {gain.high:+.2f})"
        yield Event("notice", inputs.name, {"text": told})


def _judged(config: AnyPolicyConfig, inputs: Inputs, desk: Desk) -> Scoring:
    assert config.reward == JUDGE, config.reward
    known = inputs.constitution.for_use("judge")
    judge: Model = desk.remote(inputs.remotes["judge"]) if "judge" in inputs.remotes else desk.view(None)

    def principles(prompt: Prompt) -> Sequence[Principle]:
        if config.principles == "all":
            return known
        order = drawn_order(inputs.constitution, derive(inputs.seed, "reward"), prompt.id, 1)
        return [principle for principle in order if principle in known][:1]

    return judge_scoring(principles, judge, inputs.seed)


def _zero(reward: Path | None) -> float:
    """The reward model's mean score, where it is known."""
    facts = read_facts(reward) if reward else None
    return facts.mean if facts else 0.0


def _row(workbench: "Workbench", prompt: Prompt) -> "PromptRow | RowError":
    from cai.train.rollout import PromptRow

    try:
        ids = workbench.encode_prompt(prompt.messages, prompt.tools)
    except RowError as error:
        return error
    return PromptRow(prompt.id, prompt.messages, ids, prompt.tools)
