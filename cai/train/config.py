"""What a user may set about training, with the vetted recipe as the defaults. No torch here.

Model, adapter shape and quantisation are not training settings: they belong to the workbench.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
LossName = Literal["dpo", "cdpo", "robust", "hinge", "ipo"]

_SMOOTHED = ("cdpo", "robust")


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
    """The most padded tokens in one forward pass. A memory knob: it changes neither the loss nor the gradient."""
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


class SftConfig(TrainConfig):
    """Supervised fine-tuning on single answers."""

    learning_rate: Positive = 2e-4
    """The highest learning rate, reached when the warm-up ends. 1e-4 to 2e-4 suits LoRA on models of 7B and more."""
    epochs: int = Field(default=2, ge=1)
    """How often every row is seen."""


class DpoConfig(TrainConfig):
    """Direct preference optimisation and its family, on judged pairs."""

    learning_rate: Positive = 5e-5
    """The highest learning rate, reached when the warm-up ends. Above 5e-5, watch `logps/chosen` for a collapse."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """The share of all updates over which the learning rate rises from zero."""
    loss: LossName = "dpo"
    """Which loss of the family; `cai/train/losses.py` shows each equation."""
    beta: Positive = 0.1
    """How closely the policy is held to its reference: higher is closer."""
    labels: Literal["soft", "hard"] = "soft"
    """`soft` trains towards the judge's probability of each pair, `hard` takes every chosen answer as certain."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of labels taken to be flipped: needed by `cdpo` and `robust`, refused by the others."""
    log_ratios: Literal["sum", "mean"] = "sum"
    """Log-ratios summed over an answer's tokens, as the papers have them, or divided by its length, as in TRL's IPO."""

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> Self:
        if self.loss in _SMOOTHED and self.label_smoothing == 0:
            raise ValueError(f"loss '{self.loss}' needs label_smoothing above 0; set it, or use loss 'dpo'")
        if self.loss not in _SMOOTHED and self.label_smoothing > 0:
            raise ValueError(f"loss '{self.loss}' has no label_smoothing; remove it, or use loss 'cdpo' or 'robust'")
        return self
