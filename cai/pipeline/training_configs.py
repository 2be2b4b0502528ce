"""What a user may set about each training stage: the trainer's own settings, and where rows and start come from.

No torch here. The trainers' settings are `train.config`'s.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.pipeline.reporting import ReportTo
from cai.train.config import DpoConfig, KtoConfig, PolicyConfig, RewardConfig, SftConfig

TRAINING = ("sft", "dpo", "kto", "ppo", "rloo", "grpo")
"""Kinds of stages that make a model which answers."""
LEARNING = (*TRAINING, "reward")
"""Kinds of stages that train anything."""
JUDGE = "judge"
"""In the place of a reward model: the judge says what an answer is worth."""

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Reported(BaseModel):
    """Where else a training's curve is drawn."""

    model_config = _STRICT

    report_to: ReportTo | None = Field(default=None, exclude=True)
    """Draw the curve in `tensorboard` or `wandb` as well. It changes no result, so no digest, no manifest and no
    `run.yaml` has it."""


class Start(Reported):
    """What a training goes on from."""

    model_config = _STRICT

    source: str | None = Field(default=None, alias="from")
    """What to train on from: `base`, an earlier training stage, or another run's (`quickstart/sft`); the last one
    before if not said."""


class FromPairs(Start):
    """Which judged pairs a training takes."""

    model_config = _STRICT

    pairs: Literal["all", "revisions", "samples", "imported", "new"] = "all"
    """Which of the earlier preferences to train on; `new` are those since the last stage that trained on any."""
    min_p: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """Leave out pairs of which the judge was less sure than this."""


class SftStageConfig(SftConfig, Reported):
    """Train a fresh adapter on revisions and on helpful answers."""

    model_config = _STRICT

    revisions: Literal["last", "all"] = "last"
    """Train on the final revision, or on the revision of every round that changed something."""
    helpful: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """Answers that no critic changed: up to 1, the share of them to train on as well; above 1, how many."""
    file: str | None = None
    """Answers of your own to learn as well, in any layout that holds answers or pairs. Without a `revise` stage above
    they are all that is learnt: that makes an assistant of a plain completer."""

    @model_validator(mode="after")
    def _helpful_is_a_share_or_a_count(self) -> Self:
        if self.helpful > 1 and self.helpful != int(self.helpful):
            raise ValueError("helpful must be a share up to 1, or a whole number")
        return self


class DpoStageConfig(DpoConfig, FromPairs):
    """Train on judged pairs, from the last trained adapter or from the base."""


class KtoStageConfig(KtoConfig, FromPairs):
    """Train on the answers of judged pairs, each by itself: as desirable as the judge is sure that it is the better."""


class RewardStageConfig(RewardConfig, FromPairs):
    """Train a reward model on judged pairs, for stages that learn from rewards."""


class PolicyStageConfig(PolicyConfig, Start):
    """Learn from the rewards of sampled answers."""

    reward: str = "reward"
    """What says how good an answer is: the last `reward` stage, one of these by name (`04-reward`), or `judge`, who
    then scores each answer by the constitution from 1 to 10 without any reward model."""
    judge: str = "base"
    """Where the reward is the judge's: who judges, `base` or one of `models`."""
    principles: Literal["all", "drawn"] = "all"
    """Where the reward is the judge's: by every principle, or by one drawn for each prompt."""


class PpoStageConfig(PolicyStageConfig):
    """Proximal policy optimisation: rewards against a value that is learnt beside the policy."""

    method: Literal["ppo"] = "ppo"
    """The stage's kind says it."""


class RlooStageConfig(PolicyStageConfig):
    """REINFORCE against the mean reward of the other answers to a prompt."""

    method: Literal["rloo"] = "rloo"
    """The stage's kind says it."""


class GrpoStageConfig(PolicyStageConfig):
    """Group-relative policy optimisation: each answer by its place among those to the same prompt."""

    method: Literal["grpo"] = "grpo"
    """The stage's kind says it."""
