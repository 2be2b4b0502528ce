"""The methods that can train alone: what each one reads, which trainer it is, and which of its metrics matter most.

One entry each. The trainers are `train`'s and loaded when one of them is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cai.models.protocol import Model
from cai.pipeline.alone_rewards import RewardSource, opened
from cai.pipeline.alone_rows import Encoded, Wants
from cai.seeds import derive
from cai.train.config import DpoConfig, KtoConfig, PolicyConfig, RewardConfig, SftConfig, TrainConfig

if TYPE_CHECKING:
    from cai.models.local.memory import Method as MemoryOf
    from cai.models.local.roles import Trainee
    from cai.models.local.workbench import Workbench
    from cai.train.optimise import Step
    from cai.train.reference import PairRow


@dataclass(frozen=True, slots=True)
class Work:
    """What a trainer is given."""

    config: TrainConfig
    rows: Sequence[Encoded]
    workbench: "Workbench"
    start: Path | None
    folder: Path
    stop: Callable[[], bool]
    probe: Callable[[Model], dict[str, float]] | None
    rewards: Sequence[RewardSource] = ()

    @contextmanager
    def trainee(self) -> "Iterator[Trainee]":
        """The policy, from `start` or fresh, for as long as it is trained."""
        made = self.workbench.trainee(self.start, derive(self.config.seed, "adapter"))
        try:
            yield made
        finally:
            self.workbench.release(made)


@dataclass(frozen=True, slots=True)
class Method:
    config: type[TrainConfig]
    wants: Wants
    train: "Callable[[Work], Iterator[Step]]"
    shown: Mapping[str, str]
    """Metrics that say what came of it, and what people call them."""
    speaks: bool = True
    """Whether the result answers prompts; a reward model gives scores."""
    fewest: int = 1
    """Rows that it cannot do with less of."""
    rewarded: bool = False
    """Whether somebody must say what an answer is worth."""
    preset: Mapping[str, object] = field(default_factory=dict)
    """Settings that the method's name says."""
    memory: "MemoryOf" = "sft"
    """Which estimate of memory fits it."""
    reply: Callable[[TrainConfig], int | None] = lambda _: None
    """How long an answer of its own may be, where it answers prompts in training."""


def _sft(work: Work) -> "Iterator[Step]":
    from cai.train.sft import SftRow, train_sft

    assert isinstance(work.config, SftConfig), work.config
    rows = [SftRow(row.candidate.id, row.tokens[0]) for row in work.rows]
    with work.trainee() as trainee:
        yield from train_sft(work.config, rows, trainee, work.folder, work.stop, work.probe)


def _dpo(work: Work) -> "Iterator[Step]":
    from cai.train.preference import train_dpo

    assert isinstance(work.config, DpoConfig), work.config
    with work.trainee() as trainee:
        yield from train_dpo(work.config, _pairs(work.rows), trainee, work.folder, work.stop, work.probe)


def _kto(work: Work) -> "Iterator[Step]":
    from cai.train.kto import KtoRow, train_kto

    assert isinstance(work.config, KtoConfig), work.config
    rows = [KtoRow(row.candidate.id, row.tokens[0], row.candidate.p) for row in work.rows]
    with work.trainee() as trainee:
        yield from train_kto(work.config, rows, trainee, work.folder, work.stop, work.probe)


def _reward(work: Work) -> "Iterator[Step]":
    from cai.train.reward import train_reward

    assert isinstance(work.config, RewardConfig), work.config
    scorer = work.workbench.scoring_trainee(work.start, derive(work.config.seed, "adapter"))
    try:
        yield from train_reward(work.config, _pairs(work.rows), scorer, work.folder, work.stop)
    finally:
        work.workbench.release(scorer)


def _policy(work: Work) -> "Iterator[Step]":
    from cai.train.actor_critic import ActorCritic
    from cai.train.policy import train_policy
    from cai.train.rollout import PromptRow

    config = work.config
    assert isinstance(config, PolicyConfig), config
    prompts = [
        PromptRow(each.id, each.prompt.messages, row.tokens[0].prompt_ids, each.prompt.tools)
        for row in work.rows
        for each in [row.candidate]
    ]
    with opened(work.rewards, work.workbench) as reward, work.trainee() as policy:
        if config.method != "ppo":
            yield from train_policy(config, prompts, policy, reward, work.folder, work.stop, work.probe)
            return
        # A value that begins at zero expects nothing of any answer.
        value = work.workbench.scoring_trainee(None, derive(config.seed, "value"), "zero")
        try:
            both = ActorCritic(policy, value)
            yield from train_policy(config, prompts, both, reward, work.folder, work.stop, work.probe)
        finally:
            work.workbench.release(value)


def _reply(config: TrainConfig) -> int | None:
    assert isinstance(config, PolicyConfig), config
    return config.max_new_tokens


def _pairs(rows: Sequence[Encoded]) -> "list[PairRow]":
    from cai.train.reference import PairRow

    return [PairRow(row.candidate.id, row.tokens[0], row.tokens[1], row.candidate.p) for row in rows]


_HELD_OUT = {"eval/loss": "loss on rows held out"}
_PAIRS = {
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "log-probability of chosen answers",
    "logps/rejected": "log-probability of rejected answers",
    **_HELD_OUT,
    "eval/rewards/accuracies": "accuracy on pairs held out",
}


def _policy_method(name: str) -> Method:
    shown = {
        "reward": "reward",
        "kl": "drift from the reference, in nats",
        "entropy": "entropy, in nats a token",
        "completions/mean_length": "tokens of an answer",
        "completions/clipped_ratio": "share of answers cut off",
        "eval/reward": "reward on prompts held out",
    }
    memory: MemoryOf = "ppo" if name == "ppo" else "policy"
    return Method(
        PolicyConfig, "prompts", _policy, shown, preset={"method": name}, memory=memory, reply=_reply, rewarded=True
    )


METHODS: dict[str, Method] = {
    "sft": Method(SftConfig, "answers", _sft, _HELD_OUT),
    "reward": Method(
        RewardConfig,
        "pairs",
        _reward,
        {
            "rewards/accuracies": "accuracy",
            "rewards/margins": "margin",
            **_HELD_OUT,
            "eval/rewards/accuracies": "accuracy on pairs held out",
            "eval/calibration_error": "calibration error on pairs held out",
        },
        speaks=False,
        memory="reward",
    ),
    "dpo": Method(DpoConfig, "pairs", _dpo, _PAIRS, memory="dpo"),
    "kto": Method(
        KtoConfig,
        "labelled",
        _kto,
        {
            "rewards/margins": "margin",
            "rewards/chosen": "reward of wanted answers",
            "rewards/rejected": "reward of unwanted answers",
            "kl": "drift from the reference, in nats",
            **_HELD_OUT,
        },
        fewest=2,
        memory="dpo",
    ),
    "ppo": _policy_method("ppo"),
    "grpo": _policy_method("grpo"),
    "rloo": _policy_method("rloo"),
}
