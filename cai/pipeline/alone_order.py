"""From what a person asks of one trainer to an order that can be carried out; everything wrong is refused here.

Nothing is loaded: the model is found, adapters and packages are looked for, settings are checked. Which rows the data
offer is `alone_rows`' business.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict

from cai.errors import InputError
from cai.models.local.spec import LoraSpec, ModelSpec, Precision, Quantization
from cai.pipeline.adapters import NamedAdapter, adapter_named, require_base
from cai.pipeline.alone_methods import METHODS, Method
from cai.pipeline.alone_rewards import RewardSource, reward_sources
from cai.pipeline.configs import sound_shape
from cai.pipeline.overrides import with_overrides
from cai.pipeline.reporting import ReportTo, require_package
from cai.pipeline.trained import is_trained, read_training
from cai.strict_yaml import Document, validated
from cai.train.config import PolicyConfig, TrainConfig

TRAINED = Path("trained")
"""Where trainings lie that nobody named a folder for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command as it was given; None and nothing stand for what was not said."""

    method: str
    data: Path
    model: str | None = None
    out: Path | None = None
    overrides: tuple[str, ...] = ()
    start: str | None = None
    quantization: Quantization | None = None
    precision: Precision | None = None
    template: str | None = None
    layout: str = ""
    max_tokens: int | None = None
    report_to: ReportTo | None = None
    rewards: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What to type for it."""
        said = {
            "--model": self.model, "--out": self.out, "--from": self.start, "--max-tokens": self.max_tokens,
            "--quantization": self.quantization, "--precision": self.precision, "--template": self.template,
            "--as": self.layout or None, "--report-to": self.report_to,
        }  # fmt: skip
        given = [(name, str(value)) for name, value in said.items() if value is not None]
        given += [("--set", change) for change in self.overrides] + [("--reward", reward) for reward in self.rewards]
        return shlex.join(
            ["cai", "train", self.method, "--data", str(self.data), *(word for pair in given for word in pair)]
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, checked as far as it can be without reading the data."""

    name: str
    method: Method
    spec: ModelSpec
    """A hub model at its commit."""
    asked_revision: str | None
    config: TrainConfig
    data: Path
    layout: str
    out: Path
    start: NamedAdapter | None
    max_tokens: int | None
    report_to: ReportTo | None
    command: str
    """What to type for it; it may say where things lie, and so decides nothing."""
    rewards: tuple[RewardSource, ...] = ()


def order_of(asked: Asked) -> Order:
    if asked.method not in METHODS:
        raise InputError("cai train", "there is no such method", asked.method, f"known: {', '.join(METHODS)}")
    method = METHODS[asked.method]
    out = asked.out or default_folder(asked.method, asked.data)
    settings = settings_of(method, asked.overrides)
    _require_role(asked, method)
    if asked.report_to:
        require_package(asked.report_to, f"--report-to {asked.report_to}", "--report-to")
    start = _start(asked, method, settings)
    wanted = _spec(asked, start, settings.lora)
    spec = _pinned(wanted, out)
    if start:
        require_base("--from", start, spec)
    return Order(
        asked.method, method, spec, wanted.revision, settings.config, asked.data, asked.layout, out, start,
        asked.max_tokens, asked.report_to, asked.command, _rewards(asked, spec, settings.config),
    )  # fmt: skip


def _rewards(asked: Asked, spec: ModelSpec, config: TrainConfig) -> tuple[RewardSource, ...]:
    unproven = isinstance(config, PolicyConfig) and config.unproven_reward == "allow"
    return reward_sources(asked.rewards, spec, unproven=unproven)


def default_folder(method: str, data: Path) -> Path:
    """`trained/dpo-pairs` for pairs.jsonl.gz."""
    stem = data.resolve().name.removesuffix(".gz").rpartition(".")[0] or data.resolve().name
    return TRAINED / f"{method}-{stem}"


class _Lora(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: Annotated[LoraSpec, AfterValidator(sound_shape)] = LoraSpec()


@dataclass(frozen=True, slots=True)
class Settings:
    config: TrainConfig
    lora: LoraSpec
    shaped: bool
    """Whether anything was said of the adapter's shape."""


def settings_of(method: Method, overrides: Sequence[str]) -> Settings:
    """The method's settings, and under `lora.` the shape of a fresh adapter."""
    document = with_overrides(Document("--set", {}), overrides)
    assert isinstance(document.data, dict), document.data
    data = dict(document.data)
    lora = data.pop("lora", None)
    for name, value in method.preset.items():
        if name in data:
            problem = f"'{name}' is what the command itself says"
            raise InputError(f"--set {name}", problem, data[name], "name the method behind `cai train`")
        data[name] = value
    shape = validated(Document("--set", {} if lora is None else {"lora": lora}), _Lora).lora
    return Settings(validated(Document("--set", data), method.config), shape, lora is not None)


def _require_role(asked: Asked, method: Method) -> None:
    if method.rewarded and not asked.rewards:
        remedy = "name what `cai train reward` made, or a Python function as FILE.py:function"
        raise InputError("--reward", f"is missing: {asked.method} learns from rewards", None, remedy)
    if asked.rewards and not method.rewarded:
        having = ", ".join(name for name, each in METHODS.items() if each.rewarded)
        problem = f"{asked.method} learns from its rows and has no reward"
        raise InputError("--reward", problem, asked.rewards[0], f"leave it out, or take one of {having}")


def _start(asked: Asked, method: Method, settings: Settings) -> NamedAdapter | None:
    if asked.start is None:
        return None
    start = adapter_named("--from", asked.start)
    if start.scores and method.speaks:
        problem = f"is a reward model, which gives no answers, and {asked.method} trains a model that does"
        raise InputError(f"--from {asked.start}", problem, None, "give an adapter of sft, dpo or kto")
    if settings.shaped:
        remedy = "leave lora out, or leave --from out for a fresh adapter"
        raise InputError("--set lora", "the adapter to go on from has its shape already", None, remedy)
    return start


def _spec(asked: Asked, start: NamedAdapter | None, lora: LoraSpec) -> ModelSpec:
    known = start.spec if start else None
    if asked.model is None:
        if known is None:
            remedy = "name tiny, a folder, or a hub id with its revision, such as org/name@main"
            raise InputError("--model", "is missing", None, remedy)
        spec = known
    else:
        base, _, revision = asked.model.partition("@") if not Path(asked.model).exists() else (asked.model, "", "")
        held = (known.quantization, known.precision) if known else ("nf4", "auto")
        spec = ModelSpec(base, revision or None, held[0], precision=held[1])
    if asked.quantization is not None:
        assert asked.quantization in get_args(Quantization), asked.quantization
        spec = replace(spec, quantization=asked.quantization)
    if asked.precision is not None:
        assert asked.precision in get_args(Precision), asked.precision
        spec = replace(spec, precision=asked.precision)
    if asked.template is not None:
        spec = replace(spec, template=asked.template)
    return replace(spec, lora=lora) if start is None else spec


def _pinned(spec: ModelSpec, out: Path) -> ModelSpec:
    """The model at the commit that this training began with, or that its revision stands for now. One that is not
    there is refused, before torch is loaded."""
    from cai.models.local.finding import find_model, is_commit

    if spec.revision is None or is_commit(spec.revision):
        find_model(spec.base, spec.revision)
        return spec
    before = read_training(out) if is_trained(out) else None
    same = before is not None and (before.spec.base, before.asked_revision) == (spec.base, spec.revision)
    recorded = before.spec.revision if before is not None and same else None
    found = find_model(spec.base, recorded or spec.revision)
    return replace(spec, revision=recorded or found.revision)
