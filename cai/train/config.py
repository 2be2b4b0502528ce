"""What a user may set about training, with the vetted recipe as the defaults. No torch here.

Model, adapter shape and quantisation are not training settings: they belong to the workbench.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
LossName = Literal["dpo", "cdpo", "robust", "hinge", "ipo", "cpo", "simpo", "orpo"]
OnAlarm = Literal["warn", "pause", "stop", "rollback"]


class TrainConfig(BaseModel):
    """What every trainer has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    learning_rate: Positive
    """The highest learning rate, reached when the warm-up ends."""
    epochs: int = Field(default=1, ge=1)
    """How often every row is seen."""
    batch_size: int = Field(default=16, ge=1)
    """Rows (pairs, for preferences) behind one update."""
    micro_tokens: int = Field(default=4096, ge=1)
    """The most tokens in one forward pass. A memory knob: it changes neither the loss nor the gradient."""
    checkpointing: bool = False
    """Keep each layer's input only, and compute the rest again in the backward pass. A memory knob as well: about a
    third more time for a fraction of the activations."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up, or that it does not."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """The share of all updates over which the learning rate rises from zero."""
    max_grad_norm: Positive = 1.0
    """A gradient longer than this is scaled down to it."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled decay. LoRA is regularised by its rank, so there is none by default."""
    beta1: Momentum = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: Momentum = 0.999
    """AdamW's decay of the mean squared gradient."""
    epsilon: Positive = 1e-8
    """AdamW's guard against division by zero."""
    seed: int = 0
    """Decides the order of the rows and the dropout."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Updates between two checkpoints; the last update always has one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay on disk."""
    probe_every: int = Field(default=0, ge=0)
    """Updates between two probes of the model in training; 0 probes once, after the last update."""
    holdout: Share = 0.0
    """The share of rows that is never trained on, but measured whenever the model is probed."""
    best: str | None = None
    """A metric of probes, such as `eval/loss`: the result is then the checkpoint where it was best, not the last one.
    Less is better of losses, errors, refusals and lengths, more of everything else."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many probes in a row without a better `best`; 0 goes on to the end."""
    on_alarm: OnAlarm = "warn"
    """What happens when a training goes wrong: say so, pause with a checkpoint, stop there, or stop with the best
    model before, which is what it began with where the labels were wrong all along."""

    @model_validator(mode="after")
    def _what_is_best_can_be_known(self) -> Self:
        if self.patience and self.best is None:
            raise ValueError("patience waits for a better 'best'; set best, to eval/loss for example")
        if self.best is not None and self.best.startswith("eval/") and self.holdout == 0:
            raise ValueError(f"best: {self.best} is measured on rows held out; set holdout above 0")
        return self


class SftConfig(TrainConfig):
    """Supervised fine-tuning on single answers."""

    learning_rate: Positive = 2e-4
    """The highest learning rate, reached when the warm-up ends. 1e-4 to 2e-4 suits LoRA on models of 7B and more."""
    epochs: int = Field(default=2, ge=1)
    """How often every row is seen."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a loss's paper sets, and whether it compares with a reference."""

    beta: float = 0.1
    log_ratios: Literal["sum", "mean"] = "sum"
    nll: float = 0.0
    reference: bool = True
    smoothed: Literal["must", "may", "never"] = "never"


USUAL: dict[LossName, Usual] = {
    "dpo": Usual(),
    "cdpo": Usual(smoothed="must"),
    "robust": Usual(smoothed="must"),
    "hinge": Usual(),
    "ipo": Usual(),
    "cpo": Usual(nll=1.0, reference=False, smoothed="may"),
    "simpo": Usual(beta=2.0, log_ratios="mean", reference=False),
    "orpo": Usual(log_ratios="mean", nll=1.0, reference=False),
}


class DpoConfig(TrainConfig):
    """Direct preference optimisation and its family, on judged pairs."""

    learning_rate: Positive = 5e-5
    """The highest learning rate, reached when the warm-up ends. Above 5e-5, watch `logps/chosen` for a collapse."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """The share of all updates over which the learning rate rises from zero."""
    loss: LossName = "dpo"
    """Which loss of the family; `cai/train/losses.py` shows each equation."""
    beta: Positive | None = None
    """How closely the policy is held to its reference: higher is closer. If not said, what is usual: 0.1, and 2 for
    `simpo`."""
    labels: Literal["soft", "hard"] = "soft"
    """`soft` trains towards the judge's probability of each pair, `hard` takes every chosen answer as certain."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of labels taken to be flipped: needed by `cdpo` and `robust`, possible with `cpo`."""
    log_ratios: Literal["sum", "mean"] | None = None
    """Log-ratios summed over an answer's tokens or divided by its length. If not said, as the paper has it: the mean
    for `simpo` and `orpo`, the sum for others. TRL's IPO takes the mean."""
    margin: NotNegative = 0.5
    """By how much `simpo` wants the chosen answer to lead: its γ."""
    nll: NotNegative | None = None
    """The weight of the chosen answers' likelihood per token beside the loss. If not said, 1 for `cpo` and `orpo`, none
    for others."""
    nll_tokens: Literal["answer", "all"] = "answer"
    """Whether that likelihood is the answer's, or the prompt's as well, as in TRL's ORPO."""
    dropout: bool = False
    """Whether the adapter's dropout is on. A policy without it begins equal to its reference."""

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> Self:
        smoothed = USUAL[self.loss].smoothed
        if smoothed == "must" and self.label_smoothing == 0:
            raise ValueError(f"loss '{self.loss}' needs label_smoothing above 0; set it, or use loss 'dpo'")
        if smoothed == "never" and self.label_smoothing > 0:
            raise ValueError(f"loss '{self.loss}' has no label_smoothing; remove it, or use loss 'cdpo' or 'robust'")
        return self

    @property
    def recipe(self) -> Usual:
        """What is usual, and what was set instead."""
        usual = USUAL[self.loss]
        return Usual(
            usual.beta if self.beta is None else self.beta,
            self.log_ratios or usual.log_ratios,
            usual.nll if self.nll is None else self.nll,
            usual.reference,
            usual.smoothed,
        )


class KtoConfig(TrainConfig):
    """Kahneman-Tversky optimisation, on single answers that are desirable or not."""

    learning_rate: Positive = 5e-5
    """The highest learning rate, reached when the warm-up ends."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """The share of all updates over which the learning rate rises from zero."""
    batch_size: int = Field(default=16, ge=2)
    """Answers behind one update: two at least, since each one's prompt is tried with another one's answer."""
    beta: Positive = 0.1
    """How closely the policy is held to its reference: higher is closer."""
    desirable: Positive = 1.0
    """How much a desirable answer counts: its λ."""
    undesirable: Positive = 1.0
    """How much an undesirable answer counts. The paper wants (weight × count) of both kinds within a third of each
    other."""
    labels: Literal["soft", "hard"] = "soft"
    """`soft` counts an answer as desirable by its probability, `hard` by which side of one half that lies on."""


class RewardConfig(TrainConfig):
    """A reward model: one score for each answer, learnt from judged pairs."""

    learning_rate: Positive = 1e-4
    """The highest learning rate, reached when the warm-up ends."""
    holdout: Share = 0.1
    """The share of pairs that is never trained on, and on which accuracy and calibration are measured."""
    labels: Literal["soft", "hard"] = "soft"
    """`soft` trains towards the judge's probability of each pair, `hard` takes every chosen answer as certain."""
    centring: NotNegative = 0.01
    """How strongly rewards are held near zero: the weight of (chosen + rejected)²."""
    dropout: bool = True
    """Whether the adapter's dropout is on."""


class PolicyConfig(TrainConfig):
    """Reinforcement learning from rewards, round by round: the model answers, is rewarded, and learns from what it did.

    Settings that a method does not have are refused rather than ignored.
    """

    method: Literal["ppo", "rloo", "grpo"] = "ppo"
    """How rewards become advantages: against a learnt value, against the other answers to the prompt, or by their
    place among them."""
    learning_rate: Positive = 1e-5
    """The highest learning rate, reached when the warm-up ends."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls to zero after the warm-up, or that it does not."""
    epsilon: Positive = 1e-5
    """AdamW's guard against division by zero; the larger one is usual where gradients are small."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts of one round."""
    samples: int = Field(default=4, ge=1, le=64)
    """Answers to each prompt of a round. `rloo` and `grpo` compare them, and need two or more."""
    rollout_epochs: int = Field(default=1, ge=1)
    """How often each answer of a round is learnt from. PPO's papers have 4."""
    minibatches: int = Field(default=1, ge=1)
    """Updates in each pass over a round. Answers to one prompt stay together, as far as that goes."""
    temperature: Positive = 1.0
    """Sampling temperature; every log-probability is taken at the same one."""
    max_new_tokens: int = Field(default=256, ge=1)
    """The longest answer."""
    kl: NotNegative = 0.05
    """The price of a nat between policy and reference. `ppo` and `rloo` take it off the reward, `grpo` adds it to the
    loss."""
    kl_target: Positive | None = None
    """Nats per answer that the price is raised and lowered to reach; if not said it stays as it is."""
    kl_horizon: int = Field(default=1000, ge=1)
    """Answers over which the price adapts."""
    kl_corrected: bool = True
    """`grpo`: multiply its estimate of the divergence by the ratio, so that its gradient is the divergence's own."""
    clip: Positive = 0.2
    """How far an update may move a token's probability ratio before its gradient stops; for `rloo`, an answer's."""
    clip_high: Positive | None = None
    """The same upwards, where it should differ; DAPO's paper has 0.28."""
    unproven_reward: Literal["refuse", "allow"] = "refuse"
    """What is done with a reward model that agrees with its own held-out pairs no more often than a coin would, where
    20 or more were held out, and with a judge who scores 20 or more revisions no higher than what they revise."""
    unfinished: Literal["keep", "replace", "reduce"] = "replace"
    """What becomes of the reward of an answer that did not end within the limit: it stays, is replaced by
    `unfinished_reward`, or that is added to it. The published details have each."""
    unfinished_reward: float = Field(default=-1.0, allow_inf_nan=False)
    """What replaces that reward, or is added to it."""
    whiten_rewards: bool = False
    """`ppo`: scale a round's rewards to variance 1, and keep their mean."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """`ppo`: what a later reward is worth, per token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """`ppo`: λ of generalised advantage estimation: 1 trusts the rewards alone, 0 the values."""
    score_at: Literal["last", "after"] = "last"
    """`ppo`: whether an answer's reward comes with its last token, or one position behind, where the value is then
    trained as well. TRL's PPO has `after`."""
    value_clip: Positive = 0.2
    """`ppo`: how far a value may move in an update before its gradient stops."""
    value_weight: Positive = 0.1
    """`ppo`: the value loss's share."""
    scale_advantages: bool = True
    """`grpo`: divide by the deviation within a prompt's answers."""
    aggregate: Literal["token", "rollout", "answer", "constant"] = "token"
    """How `ppo` and `grpo` average: over the tokens of an update (TRL's `bnpo`), over an update's share of its round's
    tokens (`dapo`), over answers each one's mean (`grpo`), or by a constant, answers × max_new_tokens (`dr_grpo`)."""

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        if self.method != "ppo" and self.samples < 2:
            raise ValueError(f"{self.method} compares answers to one prompt; set samples to 2 or more, or method: ppo")
        if self.minibatches > self.batch_size * self.samples:
            raise ValueError(
                f"a round has {self.batch_size * self.samples} answers, too few for {self.minibatches} minibatches; "
                "lower minibatches, or raise batch_size"
            )
        return self

    @model_validator(mode="after")
    def _settings_do_not_contradict(self) -> Self:
        for name, methods in _OF_METHODS.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{self.method} has no {name}; remove it, or take method: {methods[0]}")
        if self.kl_target is not None and self.kl == 0:
            raise ValueError("a kl of 0 stays 0 whatever kl_target is; set kl above 0, or remove kl_target")
        if self.unfinished == "reduce" and self.unfinished_reward >= 0:
            raise ValueError(
                f"unfinished: reduce adds unfinished_reward; set it below 0, not {self.unfinished_reward:g}"
            )
        return self


_PPO = ("ppo",)
_OF_METHODS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("whiten_rewards", "gamma", "lam", "score_at", "value_clip", "value_weight"), _PPO),
    **dict.fromkeys(("scale_advantages", "kl_corrected"), ("grpo",)),
    "aggregate": ("ppo", "grpo"),
}
"""Settings that not every method has, and the methods that have them."""
