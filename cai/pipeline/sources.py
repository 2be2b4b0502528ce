"""Which earlier stages a stage reads: worked out from the pipeline file alone, before anything runs.

What a stage does with its sources is the stage's business.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cai.constitution.model import Use
from cai.pipeline.configs import (
    BASE,
    NEWEST,
    EvaluateConfig,
    FilterConfig,
    JudgeStageConfig,
    JudgingConfig,
    PreferConfig,
    ReviseConfig,
    StageConfig,
)
from cai.pipeline.training_configs import (
    JUDGE,
    TRAINING,
    DpoStageConfig,
    FromPairs,
    GrpoStageConfig,
    KtoStageConfig,
    PolicyStageConfig,
    PpoStageConfig,
    RewardStageConfig,
    RlooStageConfig,
    SftStageConfig,
)

TUNED = "tuned"


class NoSourceError(ValueError):
    """A stage that cannot find what it reads: problem, value and remedy, and the key they belong to."""

    def __init__(self, key: str, problem: str, value: object, remedy: str) -> None:
        super().__init__(key, problem, value, remedy)
        self.key, self.problem, self.value, self.remedy = key, problem, value, remedy


@dataclass(frozen=True)
class Sources:
    """Numbers of stages, from 1. `start` and the values of `models` are training stages, or None for the base."""

    prompts: Literal["train", "test"] | None = None
    prompts_needed: bool = True
    """Whether the stage cannot do without these prompts."""
    revisions: tuple[int, ...] = ()
    preferences: tuple[int, ...] = ()
    start: int | None = None
    start_run: str = ""
    """What a stage of another run made, as `find_final` knows it, in place of `start`."""
    models: dict[str, int | None] = field(default_factory=dict)
    constitution: Use | None = None
    remotes: dict[str, str] = field(default_factory=dict)
    """Which remote model plays which role; a role that is not here is played by the base or an adapter on it."""
    card: int | None = None
    """The stage that measured the judge, whose temperature is to be used."""
    judge: int | None = None
    """The training stage whose adapter judges, or None for the base."""
    reward: int | None = None
    """The stage whose reward model says what answers are worth."""
    local: bool = True
    """Whether the base model takes part at all."""


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline, with its place in it."""

    number: int
    kind: str
    config: StageConfig
    sources: Sources

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.kind}"


def sources_of(config: StageConfig, before: Sequence[Stage], remotes: Collection[str] = ()) -> Sources:
    """What a stage with these settings reads, given the stages above it and the names of the remote models."""
    match config:
        case ReviseConfig():
            roles = _remote_roles({"answerer": config.answerer, "critic": config.critic}, remotes)
            return Sources(prompts="train", constitution="revise", remotes=roles, local=len(roles) < 2)
        case JudgeStageConfig():
            roles = _remote_roles({"judge": config.judge}, remotes)
            return Sources(constitution="judge", remotes=roles, local=not roles, judge=_judge(config, before))
        case PreferConfig(pairs="revisions" | "imported"):
            roles = _remote_roles({"judge": config.judge}, remotes)
            revisions = _revisions(before) if config.pairs == "revisions" else ()
            card = _card(config, before)
            own = _judge(config, before)
            return Sources(
                revisions=revisions, constitution="judge", remotes=roles, local=not roles, card=card, judge=own
            )
        case PreferConfig():
            roles = _remote_roles({"judge": config.judge}, remotes)
            if config.source is not None and config.source in remotes:
                roles["answerer"] = config.source
            start = None if "answerer" in roles else _training_stage(config.source, before, remotes)
            return Sources(
                "train",
                start=start,
                start_run=_other_run(config.source),
                constitution="judge",
                remotes=roles,
                local=len(roles) < 2,
                card=_card(config, before),
                judge=_judge(config, before),
            )
        case FilterConfig():
            return Sources(
                prompts=None if config.test_overlap is False else "test",
                prompts_needed=bool(config.test_overlap),
                revisions=_revisions(before) if config.of == "revisions" else (),
                preferences=_preferences("all", before) if config.of == "preferences" else (),
                local=False,
            )
        case SftStageConfig():
            revised = any(isinstance(stage.config, ReviseConfig) for stage in before)
            return Sources(revisions=_revisions(before) if revised or config.file is None else ())
        case DpoStageConfig() | KtoStageConfig() | RewardStageConfig():
            start, other = _training_stage(config.source, before), _other_run(config.source)
            return Sources(preferences=_preferences(config.pairs, before), start=start, start_run=other)
        case PpoStageConfig() | RlooStageConfig() | GrpoStageConfig():
            return _policy(config, before, remotes)
        case EvaluateConfig():
            return Sources(prompts="test", models=_models(before), constitution="judge")


def _policy(config: PolicyStageConfig, before: Sequence[Stage], remotes: Collection[str]) -> Sources:
    """The train prompts, the model to go on from, and a reward model or the judge."""
    start, other = _training_stage(config.source, before), _other_run(config.source)
    if config.reward == JUDGE:
        roles = _remote_roles({"judge": config.judge}, remotes)
        revised = any(isinstance(stage.config, ReviseConfig) for stage in before)
        proof = _revisions(before) if revised and config.unproven_reward == "refuse" else ()
        return Sources("train", revisions=proof, start=start, start_run=other, constitution="judge", remotes=roles)
    rewards = [stage for stage in before if isinstance(stage.config, RewardStageConfig)]
    for stage in reversed(rewards):
        if config.reward in (stage.kind, stage.name):
            return Sources("train", start=start, start_run=other, reward=stage.number)
    known = ", ".join(dict.fromkeys([JUDGE, *(word for stage in rewards for word in (stage.kind, stage.name))]))
    remedy = f"put a reward stage above it, as in - reward, or set reward: judge; known here: {known}"
    raise NoSourceError("reward", "must name a reward model that stands before it", config.reward, remedy)


def _remote_roles(wanted: dict[str, str], remotes: Collection[str]) -> dict[str, str]:
    """Role to remote model, where the role is not the base's."""
    for role, name in wanted.items():
        if name != BASE and name not in remotes and not (role == "judge" and name == NEWEST):
            known = f"known here: {', '.join([BASE, *remotes])}"
            raise NoSourceError(role, f"must name {BASE} or one of models as its {role}", name, known)
    return {role: name for role, name in wanted.items() if name in remotes}


def _judge(config: JudgingConfig, before: Sequence[Stage]) -> int | None:
    trained = [stage.number for stage in before if stage.kind in TRAINING]
    return trained[-1] if config.judge == NEWEST and trained else None


def _card(config: PreferConfig, before: Sequence[Stage]) -> int | None:
    """The last measurement of a judge that judges in just this way; the newest model is another after each training."""
    if not config.calibrate:
        return None
    ways, own = JudgingConfig.model_fields, _judge(config, before)
    for stage in reversed(before):
        alike = all(getattr(stage.config, name, None) == getattr(config, name) for name in ways)
        if isinstance(stage.config, JudgeStageConfig) and alike and stage.sources.judge == own:
            return stage.number
    remedy = "put one above it with the same judge, principles and thresholds, or remove calibrate"
    raise NoSourceError("calibrate", "needs a 'judge' stage before it that measures this judge", config.judge, remedy)


def makers(stages: Sequence[Stage], numbers: Collection[int]) -> tuple[int, ...]:
    """The stages that made the records which these hold: a filter passes on what others made."""
    found: list[int] = []
    for stage in stages:
        if stage.number in numbers:
            read = (*stage.sources.revisions, *stage.sources.preferences)
            found += makers(stages, read) if isinstance(stage.config, FilterConfig) else [stage.number]
    return tuple(found)


def _revisions(before: Sequence[Stage]) -> tuple[int, ...]:
    return _standing(before, "revise", "revisions")


def _preferences(pairs: str, before: Sequence[Stage]) -> tuple[int, ...]:
    """Of a filter that holds pairs of both kinds, the stage takes those that it wants."""
    numbers = _standing(before, "prefer", "preferences")
    if pairs == "new":
        trained = max((stage.number for stage in before if isinstance(stage.config, FromPairs)), default=0)
        numbers = tuple(n for n in numbers if n > trained)
        if any(made < trained for made in makers(before, numbers)):
            problem = "the filter before it holds pairs that an earlier stage trained on, too"
            raise NoSourceError("pairs", problem, "new", "filter the revisions instead, or use pairs: all")
        if not numbers:
            raise NoSourceError(
                "pairs", "no 'prefer' stands between it and the last training on pairs", "new", "add one"
            )
    elif pairs != "all":
        kept = {s.number for s in before if isinstance(s.config, PreferConfig) and s.config.pairs == pairs}
        numbers = tuple(n for n in numbers if kept & set(makers(before, [n])))
    if not numbers:
        raise NoSourceError("pairs", f"needs a stage before it that prefers {pairs}", None, "or use pairs: all")
    return numbers


def _models(before: Sequence[Stage]) -> dict[str, int | None]:
    """The base, every supervised model on the way, and the final one."""
    trained = [stage for stage in before if stage.kind in TRAINING]
    supervised = [stage for stage in trained[:-1] if stage.kind == "sft"]
    models: dict[str, int | None] = {BASE: None}
    for stage in supervised:
        models["sft" if len(supervised) == 1 else stage.name] = stage.number
    if trained:
        models[TUNED] = trained[-1].number
    return models


def _standing(before: Sequence[Stage], kind: str, made: Literal["revisions", "preferences"]) -> tuple[int, ...]:
    """The stages that hold what stages of this kind made: the last filter of it holds all that came before."""
    numbers: list[int] = []
    for stage in before:
        if stage.kind == kind:
            numbers.append(stage.number)
        elif isinstance(stage.config, FilterConfig) and stage.config.of == made:
            numbers = [stage.number]
    if not numbers:
        raise NoSourceError("", f"needs a '{kind}' stage before it", None, f"put one above it, as in - {kind}")
    return tuple(numbers)


def _other_run(name: str | None) -> str:
    """A slash makes it another run's."""
    return name if name and "/" in name else ""


def _training_stage(name: str | None, before: Sequence[Stage], remotes: Collection[str] = ()) -> int | None:
    """The last training stage of this kind or name; without a name the last one at all; None for the base
    and for another run's."""
    trained = [stage for stage in before if stage.kind in TRAINING]
    if name is None:
        return trained[-1].number if trained else None
    if name == BASE or _other_run(name):
        return None
    for stage in reversed(trained):
        if name in (stage.kind, stage.name):
            return stage.number
    known = [BASE, *dict.fromkeys(word for stage in trained for word in (stage.kind, stage.name)), *remotes]
    raise NoSourceError(
        "from",
        "must name an earlier training stage",
        name,
        f"known here: {', '.join(known)}; RUN/STAGE is another run's",
    )
