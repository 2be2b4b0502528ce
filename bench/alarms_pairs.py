"""Failures planted in fine-tuning and in trainings on judged answers: wrong labels, wild rates, lost gradients."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from alarms_arena import (
    Arena,
    Failure,
    Forgetful,
    Held,
    Labels,
    Training,
    Unreached,
    as_judged,
    coin,
    never,
    turned_round,
)

from cai.train.config import DpoConfig, KtoConfig, RewardConfig, SftConfig, TrainConfig
from cai.train.kto import train_kto
from cai.train.optimise import Step
from cai.train.preference import train_dpo
from cai.train.reward import train_reward
from cai.train.sft import train_sft

PAIRS, ROWS = 6, 8
"""Of an update of a planted failure."""
DPO_RATE, SFT_RATE, KTO_RATE, REWARD_RATE = 7e-4, 1e-3, 7e-4, 2e-3
"""What suits the embedded model from its base: `bench/parts.py`, `bench/works.py` and the quickstart."""

RUINED = ("loss-explosion", "gradient-explosion", "chosen-falls", "not-finite")
REFUSING = ("over-refusal", "held-out-falls")


def trained(
    train: Callable[..., Iterator[Step]],
    arena: Arena,
    folder: Path,
    config: TrainConfig,
    rows: Sequence[object],
    held: Held | None = None,
) -> Iterator[Step]:
    trainee = arena.workbench.trainee(None, config.seed)
    given = held(trainee) if held else trainee
    try:
        yield from train(config, rows, given, folder, never, arena.probe(trainee, config.seed))
    finally:
        arena.workbench.release(trainee)


def scored(
    arena: Arena, folder: Path, config: RewardConfig, rows: Sequence[object], held: Held | None = None
) -> Iterator[Step]:
    scorer = arena.workbench.scoring_trainee(None, config.seed)
    given = held(scorer) if held else scorer  # type: ignore[arg-type]
    try:
        yield from train_reward(config, rows, given, folder, never, lambda _: arena.ranks(scorer))  # type: ignore[arg-type]
    finally:
        arena.workbench.release(scorer)


def planted_dpo(
    name: str,
    labels: Labels = as_judged,
    *,
    rate: float = 1.0,
    family: str = "",
    p_chosen: float | None = None,
    held: Held | None = None,
    updates: int = 60,
) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = DpoConfig(learning_rate=DPO_RATE * rate, batch_size=PAIRS, seed=seed, probe_every=10)
        pairs = arena.pairs(seed, PAIRS * updates, labels, family, p_chosen)
        return trained(train_dpo, arena, folder, config, pairs, held)

    return Training(f"dpo: {name}", steps)


def planted_sft(name: str, *, rate: float = 1.0, held: Held | None = None, updates: int = 20) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = SftConfig(learning_rate=SFT_RATE * rate, batch_size=ROWS, epochs=1, seed=seed)
        return trained(train_sft, arena, folder, config, arena.answers(seed, ROWS * updates), held)

    return Training(f"sft: {name}", steps)


def planted_kto(name: str, labels: Labels = as_judged, *, rate: float = 1.0, updates: int = 60) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = KtoConfig(learning_rate=KTO_RATE * rate, batch_size=ROWS, seed=seed, probe_every=10)
        return trained(train_kto, arena, folder, config, arena.singles(seed, ROWS * updates, labels))

    return Training(f"kto: {name}", steps)


def planted_reward(
    name: str,
    labels: Labels = as_judged,
    *,
    rate: float = 1.0,
    held: Held | None = None,
    updates: int = 60,
) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = RewardConfig(
            learning_rate=REWARD_RATE * rate, batch_size=PAIRS, seed=seed, probe_every=10, holdout=0.0
        )
        return scored(arena, folder, config, arena.pairs(seed, PAIRS * updates, labels), held)

    return Training(f"reward: {name}", steps)


FAILURES = (
    Failure(planted_dpo("labels thrown anew", coin), ("labels-teach-nothing",), 60),
    Failure(planted_dpo("every label a tie", p_chosen=0.5, updates=20), ("nothing-moves",), 20),
    Failure(planted_dpo("labels turned round", turned_round, updates=40), ("labels-turned-round",), 40),
    Failure(planted_dpo("learning rate × 30", rate=30, updates=20), RUINED, 20),
    Failure(planted_dpo("learning rate × 100", rate=100, updates=20), RUINED, 20),
    Failure(planted_dpo("no gradient arrives", held=Unreached, updates=20), ("nothing-moves",), 20),
    Failure(planted_dpo("steps are lost", held=Forgetful, updates=20), ("nothing-moves",), 20),
    Failure(planted_dpo("a judge that over-refuses", turned_round, family="refusal"), REFUSING, 60),
    Failure(planted_dpo("a judge that loves length", turned_round, family="brevity"), ("longer",), 60),
    Failure(planted_sft("learning rate × 30", rate=30), RUINED, 20),
    Failure(planted_sft("learning rate × 100", rate=100), RUINED, 20),
    Failure(planted_sft("no gradient arrives", held=Unreached), ("nothing-moves",), 20),
    Failure(planted_kto("labels thrown anew", coin, updates=70), ("labels-teach-nothing",), 70),
    Failure(planted_kto("labels turned round", turned_round, updates=40), ("labels-turned-round",), 40),
    Failure(planted_kto("learning rate × 100", rate=100, updates=20), RUINED, 20),
    Failure(planted_reward("labels thrown anew", coin), ("labels-teach-nothing",), 60),
    Failure(planted_reward("labels turned round", turned_round), ("labels-turned-round",), 60),
    Failure(planted_reward("learning rate × 100", rate=100, updates=20), RUINED, 20),
    Failure(planted_reward("no gradient arrives", held=Unreached, updates=20), ("nothing-moves",), 20),
)
