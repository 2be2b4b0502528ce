"""What the tests of policy methods share: small settings, a reward by letters, and what stands around a round."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cai.models.local.roles import Trainee
from cai.train.actor_critic import ActorCritic
from cai.train.config import PolicyConfig
from cai.train.experience import Scene
from cai.train.rollout import PromptRow, Rollout

NewActor = Callable[..., Trainee | ActorCritic]
SMALL = {"learning_rate": 2e-2, "batch_size": 4, "samples": 4, "max_new_tokens": 6, "kl": 0.01}


def config(method: str, **changes: object) -> PolicyConfig:
    return PolicyConfig.model_validate({**SMALL, "method": method, **changes})


def never() -> bool:
    return False


def lower_letters(rollouts: Sequence[Rollout]) -> list[float]:
    """The share of an answer's letters that stand in the first half of the alphabet."""
    return [sum(letter < "`" for letter in r.text) / max(1, len(r.text)) for r in rollouts]


def policy_of(actor: Trainee | ActorCritic) -> Trainee:
    return actor.policy if isinstance(actor, ActorCritic) else actor


def scene_of(settings: PolicyConfig, prompts: list[PromptRow], actor: Trainee | ActorCritic, folder: Path) -> Scene:
    value = actor.value if isinstance(actor, ActorCritic) else None
    return Scene(settings, prompts, policy_of(actor), value, lower_letters, folder)
