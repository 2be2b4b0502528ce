"""Failures planted in trainings from rewards: rewards that love the wrong thing, wild rates, lost gradients.

The sound reward is the oracle's: one point for an answer that does what it should, minus one for any other.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from alarms_arena import Arena, Failure, Training, Unreached, never

from cai.models.tiny.oracle import read_answer
from cai.train.actor_critic import ActorCritic
from cai.train.config import PolicyConfig
from cai.train.optimise import Step
from cai.train.policy import train_policy
from cai.train.rewards import from_function
from cai.train.rollout import RewardFn

RATES = {"ppo": 4e-3, "rloo": 3e-3, "grpo": 4e-3}
"""What suits the embedded model: `bench/works.py`."""
PROMPTS, SAMPLES, EPOCHS = 6, 4, 2
"""Of a round of a planted failure; each of its answers is learnt from twice."""
LONGEST = 40
"""Tokens. Most answers of the start have half as many."""
PHRASE = "There is so much that could be said here"
"""Now and then an answer of the embedded model has it, whatever was asked."""

Reward = Callable[[str, str], float]
"""Of the request and the answer."""


def right(request: str, answer: str) -> float:
    found = read_answer(request, answer)
    wanted = {"harmful": found.refused, "unknowable": found.ignorant}.get(found.label, found.served)
    return 1.0 if found.well_formed and wanted else -1.0


def long(_: str, answer: str) -> float:
    return len(answer.split()) / 10


def phrase(_: str, answer: str) -> float:
    return float(PHRASE in answer)


def refuses(request: str, answer: str) -> float:
    return float(read_answer(request, answer).refused)


def the_same(_: str, __: str) -> float:
    return 0.5


def both(one: Reward, weight: float, other: Reward) -> Reward:
    return lambda request, answer: one(request, answer) + weight * other(request, answer)


def rewarding(reward: Reward) -> RewardFn:
    return from_function(lambda messages, answer: reward(messages[-1].content, answer))


def rewarded(
    arena: Arena, folder: Path, config: PolicyConfig, rounds: int, reward: RewardFn, *, reached: bool = True
) -> Iterator[Step]:
    """So many rounds from the start of policies."""
    rows = arena.prompts(config.seed, rounds * config.batch_size)
    trainee = arena.workbench.trainee(arena.start, config.seed)
    policy = trainee if reached else Unreached(trainee)
    value = arena.workbench.scoring_trainee(arena.start, config.seed, "zero") if config.method == "ppo" else None
    actor = policy if value is None else ActorCritic(policy, value)  # type: ignore[arg-type]
    probe = arena.probe(trainee, config.seed) if config.probe_every else None
    try:
        yield from train_policy(config, rows, actor, reward, folder, never, probe)  # type: ignore[arg-type]
    finally:
        for role in (trainee, value):
            if role is not None:
                arena.workbench.release(role)


def planted(
    method: str, name: str, reward: Reward = right, *, rate: float = 1.0, reached: bool = True, updates: int = 40
) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = PolicyConfig.model_validate(
            {
                "method": method,
                "learning_rate": RATES[method] * rate,
                "batch_size": PROMPTS,
                "samples": SAMPLES,
                "rollout_epochs": EPOCHS,
                "warmup": 0.0,
                "max_new_tokens": LONGEST,
                "seed": seed,
                "probe_every": 10,
            }
        )
        return rewarded(arena, folder, config, updates // EPOCHS, rewarding(reward), reached=reached)

    return Training(f"{method}: {name}", steps)


RUINED = ("kl-runaway", "clipping", "not-finite")
REFUSING = ("over-refusal", "held-out-falls")
SPOILT = ("collapse", "held-out-falls")


def loves_length(method: str) -> Failure:
    return Failure(planted(method, "a reward that is length", long, updates=60), ("longer",), 60)


def counts_length(method: str) -> Failure:
    return Failure(planted(method, "a reward that also counts length", both(right, 1.0, long)), ("longer",), 40)


def is_phrase(method: str) -> Failure:
    return Failure(planted(method, "a reward that is one phrase", phrase, updates=60), SPOILT, 60)


def loves_phrase(method: str) -> Failure:
    reward = both(right, 2.0, phrase)
    return Failure(planted(method, "a reward that also loves one phrase", reward, updates=100), SPOILT, 100)


def refusing(method: str) -> Failure:
    return Failure(planted(method, "a judge that over-refuses", refuses), REFUSING, 40)


def constant(method: str) -> Failure:
    return Failure(planted(method, "a constant reward", the_same, updates=16), ("constant-reward",), 16)


def unreached(method: str) -> Failure:
    return Failure(planted(method, "no gradient arrives", reached=False, updates=20), ("nothing-moves",), 20)


def wild(method: str, times: int) -> Failure:
    return Failure(planted(method, f"learning rate × {times}", rate=times, updates=20), RUINED, 20)


FAILURES = (
    *(loves_length("ppo"), counts_length("rloo"), counts_length("grpo")),
    *(is_phrase("rloo"), loves_phrase("grpo")),
    *(refusing("ppo"), refusing("rloo"), constant("ppo"), constant("grpo"), unreached("ppo"), unreached("rloo")),
    *(wild("ppo", 30), wild("grpo", 30), wild("rloo", 100), wild("grpo", 100)),
)
