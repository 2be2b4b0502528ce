"""Trainings that nothing is wrong with, drawn from what people set."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alarms_arena import Arena, Training
from alarms_pairs import DPO_RATE, KTO_RATE, REWARD_RATE, SFT_RATE, scored, trained
from alarms_policy import LONGEST, RATES, Reward, long, rewarded, rewarding, right

from cai.seeds import derive, uniform
from cai.train.config import DpoConfig, KtoConfig, PolicyConfig, RewardConfig, SftConfig
from cai.train.kto import train_kto
from cai.train.optimise import Step
from cai.train.preference import train_dpo
from cai.train.sft import train_sft

MOST_NOISE = 0.15
"""Of the labels, and of the rewards, that may be wrong."""


@dataclass(frozen=True)
class Draw:
    """What one seed's training is made of."""

    seed: int

    def between(self, what: str, low: float, high: float) -> float:
        return low * math.pow(high / low, uniform(derive("healthy", self.seed, what), 0))

    def one_of(self, what: str, *choices: str) -> str:
        return choices[int(uniform(derive("healthy", self.seed, what), 0) * len(choices))]

    def noisy(self) -> Callable[[int, int], bool]:
        noise = uniform(derive("healthy", self.seed, "noise"), 0) * MOST_NOISE
        return lambda seed, row: uniform(derive("mistaken", seed, row), 0) < noise

    def shared(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "schedule": self.one_of("schedule", "cosine", "linear", "constant"),
            "warmup": self.between("warmup", 0.03, 0.2),
            "batch_size": round(self.between("batch", 4, 7)),
            "epochs": int(self.one_of("epochs", "1", "1", "2")),
            "probe_every": 20,
        }

    def rows(self, most: int = 70) -> int:
        shared = self.shared()
        return round(self.between("updates", 50, most)) * int(str(shared["batch_size"])) // int(str(shared["epochs"]))


def method_of(seed: int) -> str:
    return Draw(seed).one_of("method", *METHODS)


def healthy(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
    return METHODS[method_of(seed)](arena, Draw(seed), folder)


def sft(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
    config = SftConfig.model_validate({**draw.shared(), "learning_rate": SFT_RATE * draw.between("rate", 0.3, 1.5)})
    return trained(train_sft, arena, folder, config, arena.answers(draw.seed, draw.rows(120)))


def dpo(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
    loss = draw.one_of("loss", "dpo", "dpo", "cdpo", "robust", "hinge", "ipo")
    own = {"label_smoothing": 0.1 if loss in ("cdpo", "robust") else 0.0, "beta": draw.between("beta", 0.05, 0.3)}
    return preferring(arena, draw, folder, {"loss": loss, **own})


def without_reference(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
    return preferring(arena, draw, folder, {"loss": draw.one_of("loss", "simpo", "orpo", "cpo")})


def preferring(arena: Arena, draw: Draw, folder: Path, own: dict[str, object]) -> Iterator[Step]:
    rate, labels = DPO_RATE * draw.between("rate", 0.3, 1.5), draw.one_of("labels", "soft", "hard")
    config = DpoConfig.model_validate({**draw.shared(), **own, "learning_rate": rate, "labels": labels})
    return trained(train_dpo, arena, folder, config, arena.pairs(draw.seed, draw.rows(), draw.noisy()))


def kto(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
    rate, labels = KTO_RATE * draw.between("rate", 0.3, 1.5), draw.one_of("labels", "soft", "hard")
    own = {"learning_rate": rate, "labels": labels, "beta": draw.between("beta", 0.05, 0.3)}
    config = KtoConfig.model_validate({**draw.shared(), **own})
    return trained(train_kto, arena, folder, config, arena.singles(draw.seed, draw.rows(), draw.noisy()))


def reward(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
    rate, labels = REWARD_RATE * draw.between("rate", 0.3, 1.5), draw.one_of("labels", "soft", "hard")
    own = {"learning_rate": rate, "labels": labels, "holdout": float(draw.one_of("holdout", "0", "0.1"))}
    config = RewardConfig.model_validate({**draw.shared(), **own})
    return scored(arena, folder, config, arena.pairs(draw.seed, draw.rows(), draw.noisy()))


def policy(method: str) -> "Method":
    def steps(arena: Arena, draw: Draw, folder: Path) -> Iterator[Step]:
        epochs = int(draw.one_of("rollout epochs", "1", "2", "2"))
        own = {
            "method": method,
            "epochs": 1,
            "rollout_epochs": epochs,
            "samples": round(draw.between("samples", 3, 5)),
            "learning_rate": RATES[method] * draw.between("rate", 0.3, 1.2),
            "kl": draw.between("kl", 0.02, 0.1),
            "max_new_tokens": LONGEST,
        }
        config = PolicyConfig.model_validate({**draw.shared(), **own})
        rounds = round(draw.between("updates", 36, 48)) // epochs
        return rewarded(arena, folder, config, rounds, rewarding(unsure(draw)))

    return steps


def unsure(draw: Draw) -> Reward:
    """The oracle's word, or a little less for a long answer, and now and then the opposite."""
    terse, mistaken = float(draw.one_of("terse", "0", "0.2")), draw.noisy()

    def reward(request: str, answer: str) -> float:
        said = -right(request, answer) if mistaken(draw.seed, derive(request, answer)) else right(request, answer)
        return said - terse * long(request, answer)

    return reward


Method = Callable[[Arena, Draw, Path], Iterator[Step]]
METHODS: dict[str, Method] = {
    "sft": sft,
    "dpo": dpo,
    "without a reference": without_reference,
    "kto": kto,
    "reward": reward,
    "ppo": policy("ppo"),
    "rloo": policy("rloo"),
    "grpo": policy("grpo"),
}
HEALTHY = Training("healthy", healthy)
