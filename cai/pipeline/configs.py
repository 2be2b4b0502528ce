"""What a user may set about each stage kind and about the run around them. No torch here.

A field is documented once, beneath itself. Training settings come from `train.config`; which stage reads which lives
in `sources`.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cai.feedback.filters.settings import FilterSettings
from cai.feedback.styles import Style
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.models.remote.spec import RemoteSpec
from cai.pipeline.training_configs import (
    LEARNING,
    DpoStageConfig,
    GrpoStageConfig,
    KtoStageConfig,
    PpoStageConfig,
    RewardStageConfig,
    RlooStageConfig,
    SftStageConfig,
)

Share = Annotated[float, Field(ge=0, le=1)]
Half = Annotated[float, Field(ge=0.5, le=1)]
Count = Annotated[int, Field(ge=1)]

BASE = "base"
"""The name of the run's own model, without an adapter."""
NEWEST = "newest"
"""What the last training stage made, or the base where none stands before."""

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PromptSet(BaseModel):
    model_config = _STRICT

    source: str = Field(alias="from")
    """`tiny/align`, `tiny/tune`, `tiny/test`, or a file: a prompt a line, or rows that `cai data import` reads."""
    limit: Count | None = None
    """Take this many: a file's first ones; of an embedded set, as many of each class as of the others."""


class PromptSettings(BaseModel):
    model_config = _STRICT

    train: PromptSet | None = None
    """What the model answers, revises and is trained on."""
    test: PromptSet | None = None
    """What it is evaluated on, and never trained on."""


class ReviseConfig(BaseModel):
    """Answer, then critique and revise by drawn principles."""

    model_config = _STRICT

    rounds: int = Field(default=2, ge=1, le=16)
    """Critique-and-revision rounds for each prompt; each draws a principle by its weight."""
    style: Style = "chat"
    """Ask in turns of a chat, or, with `paper`, by the published protocol as plain text, worked examples first."""
    answerer: str = BASE
    """Who answers: `base` or one of `models`."""
    critic: str = BASE
    """Who criticises and revises: `base` or one of `models`."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of answers, critiques and revisions; 0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """The share of probability that is sampled from."""
    max_new_tokens: Count = 256
    """The longest answer, critique or revision."""
    chunk: Count = 64
    """Prompts committed together. It is part of the plan: another size is another batch."""


class JudgingConfig(BaseModel):
    """How pairs are judged, wherever they are."""

    model_config = _STRICT

    judge: str = BASE
    """Who judges: `base`, one of `models`, or `newest`, which is what the last training stage made."""
    principles: Literal["all", "drawn"] | Count = "all"
    """Judge by every principle, by one drawn for each pair, or by this many drawn."""
    certain_at: Half | None = None
    """Ask one principle after the other, and no more about a pair of which both orders are this sure."""
    tokens_per_pair: Count | None = None
    """With `certain_at`: what a pair may cost in tokens on average; contested pairs get what clear ones leave."""
    reasoning: Annotated[int, Field(ge=0, le=16)] = 0
    """How often the judge thinks aloud about each order before it decides; labels then stay within 0.4 and 0.6."""
    reasoning_tokens: Count = 256
    """The longest thought."""
    style: Style = "chat"
    """Ask the judge in a chat, or, with `paper`, by the published protocol as plain text. Sampling is always a chat."""
    tie_below: Half = 0.6
    """A pair whose better answer is less sure than this is a tie."""
    contradiction_beyond: Half = 0.7
    """Where the two orders disagree, and each is at least this sure, the pair is a contradiction."""

    @model_validator(mode="after")
    def _settings_that_need_one_another(self) -> Self:
        if self.tokens_per_pair is not None and self.certain_at is None:
            raise ValueError("tokens_per_pair is what a judge may spend that stops when it is certain; set certain_at")
        if self.reasoning and self.style == "paper":
            raise ValueError("a judge that reasons is asked in a chat; remove 'reasoning', or set style: chat")
        return self


class Requirements(BaseModel):
    """What a judge must reach before anything is made with it."""

    model_config = _STRICT

    accuracy: Share | None = None
    """Share of pairs of which it names the better answer."""
    consistency: Share | None = None
    """Share of pairs of which it names the same answer in both orders."""
    both_orders: Share | None = None
    """Share of pairs that it gets right in either order."""
    kappa: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Agreement with the labels beyond chance."""
    auroc: Share | None = None
    """How well its probabilities part better from worse."""
    above_length: Annotated[float, Field(ge=-1, le=1)] | None = None
    """How far its accuracy lies above that of the rule that the longer answer is better."""
    calibration_error: Share | None = None
    """At most this gap between how sure it is and how often it is right."""
    unjudged: Share | None = None
    """At most this share of pairs that it gives no judgement of."""


class JudgeStageConfig(JudgingConfig):
    """Measure the judge on pairs of which the better answer is known, before it is trusted."""

    data: str = "tiny/tune"
    """The pairs: `tiny/align`, `tiny/tune`, `tiny/test`, or a file in any layout that holds pairs."""
    limit: Count = 400
    """Take this many pairs."""
    require: Requirements = Requirements()
    """Stop the run, with exit code 3, where the judge falls short of any of these."""
    chunk: Count = 64
    """Pairs committed together. It is part of the plan: another size is another batch."""


class PreferConfig(JudgingConfig):
    """Make pairs of answers and have them judged by the constitution, in both orders."""

    pairs: Literal["revisions", "samples", "imported"] = "revisions"
    """Original against revision, new answers against each other, or the pairs of a file, judged anew."""
    unconfirmed: Literal["reject", "keep"] = "reject"
    """What becomes of a revision that the judge does not prefer to the original: a reject, or a pair as judged."""
    samples: int = Field(default=2, ge=2, le=16)
    """Answers sampled for each prompt, where pairs are samples."""
    keep: Literal["all", "best"] = "all"
    """Where pairs are samples: every judged pair, or only the best answer against the worst."""
    file: str | None = None
    """Where pairs are imported: the file, in any layout that holds pairs."""
    source: str | None = Field(default=None, alias="from")
    """Who samples: `base`, an earlier training stage, another run's (`quickstart/sft`) or one of `models`; the last
    training stage if not said."""
    calibrate: bool = False
    """Soften or sharpen the labels by the temperature that the `judge` stage above found for this judge."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of the sampled answers."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """The share of probability that is sampled from."""
    max_new_tokens: Count = 256
    """The longest sampled answer."""
    chunk: Count = 64
    """Revisions, prompts or pairs committed together. It is part of the plan: another size is another batch."""

    @model_validator(mode="after")
    def _each_kind_of_pairs_has_its_own_settings(self) -> Self:
        if self.pairs != "samples" and self.source is not None:
            raise ValueError(
                f"pairs of {self.pairs} are not sampled from a model; remove 'from', or set pairs: samples"
            )
        if self.pairs != "samples" and self.keep != "all":
            raise ValueError("only samples can be ranked; remove 'keep', or set pairs: samples")
        if (self.pairs == "imported") != (self.file is not None):
            raise ValueError("pairs: imported and 'file' belong together; give both or neither")
        return self


class FilterConfig(FilterSettings):
    """Take out what data is better without, each row with its reason. Later stages read what stays."""

    model_config = _STRICT

    of: Literal["preferences", "revisions"] = "preferences"
    """What to filter: all judged pairs so far, or all revisions."""
    test_overlap: bool | None = None
    """Rows whose question stands in `prompts.test`; if not said, wherever the pipeline has such prompts."""

    @model_validator(mode="after")
    def _revisions_have_no_second_answer(self) -> Self:
        if self.of == "revisions" and self.balance_lengths:
            raise ValueError("balance_lengths compares chosen and rejected answers; remove it, or set of: preferences")
        return self


class EvaluateConfig(BaseModel):
    """Ask the base, every supervised model and the final one the same questions, and compare."""

    model_config = _STRICT

    suites: tuple[str, ...] = Field(default=("tiny",), min_length=1)
    """What to measure."""
    judge_pairs: int = Field(default=400, ge=0)
    """Suite `tiny`: pairs of which the truth is known, to measure the base as a judge on; 0 measures nothing."""
    chunk: Count = 64
    """Prompts committed together. It is part of the plan: another size is another batch."""


TrainingStageConfig = (
    SftStageConfig
    | DpoStageConfig
    | KtoStageConfig
    | RewardStageConfig
    | PpoStageConfig
    | RlooStageConfig
    | GrpoStageConfig
)
StageConfig = ReviseConfig | JudgeStageConfig | PreferConfig | FilterConfig | TrainingStageConfig | EvaluateConfig

KINDS: dict[str, type[StageConfig]] = {
    "revise": ReviseConfig,
    "judge": JudgeStageConfig,
    "prefer": PreferConfig,
    "filter": FilterConfig,
    "sft": SftStageConfig,
    "dpo": DpoStageConfig,
    "kto": KtoStageConfig,
    "reward": RewardStageConfig,
    "ppo": PpoStageConfig,
    "rloo": RlooStageConfig,
    "grpo": GrpoStageConfig,
    "evaluate": EvaluateConfig,
}


def style_of(config: StageConfig) -> Style:
    """How a stage words what it asks."""
    return config.style if isinstance(config, ReviseConfig | JudgingConfig) else "chat"


def reasons(config: StageConfig) -> bool:
    """Whether its judge thinks before it decides, and so is asked in further words."""
    return isinstance(config, JudgingConfig) and config.reasoning > 0


def sound_shape(lora: LoraSpec) -> LoraSpec:
    """The shape of an adapter, if there can be one."""
    if lora.rank < 1 or lora.alpha < 1:
        raise ValueError(f"rank and alpha must be 1 or more, got {lora.rank} and {lora.alpha}")
    if not 0 <= lora.dropout < 1:
        raise ValueError(f"dropout must be 0 or more and below 1, got {lora.dropout}")
    return lora


class PipelineSpec(BaseModel):
    """A pipeline file, with each stage's settings as they were written: `Pipeline.stages` has them parsed."""

    model_config = _STRICT

    name: str
    """The run's name: its folder below `runs`, and the report's title. It changes no result."""
    seed: int = Field(default=0, ge=0)
    """Everything random in the run is drawn from this."""
    constitution: str
    """The constitution's file."""
    model: ModelSpec | None = None
    """The one base model of the run, and the shape of its adapters; not needed where `models` do everything."""
    models: dict[str, RemoteSpec] = Field(default_factory=dict)
    """Remote models by the names that stages call them."""
    prompts: PromptSettings
    """What the model is asked."""
    stages: tuple[dict[str, dict[str, object]], ...] = Field(min_length=1)
    """What is done, in order: one stage kind each, with its settings."""

    @field_validator("name")
    @classmethod
    def _name_can_be_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
            raise ValueError("must be letters, digits, '.', '_' and '-' only, at most 80, with a letter or digit first")
        return name

    @model_validator(mode="after")
    def _remote_names_mean_nothing_else(self) -> Self:
        for name in self.models:
            if not re.fullmatch(r"[a-z][a-z0-9._-]{0,39}", name):
                raise ValueError("models: a name must be small letters, digits, '.', '_' and '-', a letter first")
            if name in (BASE, NEWEST, *LEARNING):
                raise ValueError(f"models: {name!r} means something else already; choose another name")
        return self

    @field_validator("model")
    @classmethod
    def _adapters_have_a_shape(cls, model: ModelSpec | None) -> ModelSpec | None:
        if model is not None:
            sound_shape(model.lora)
        return model
