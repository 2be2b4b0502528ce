"""A policy and its value as one learner: two adapters with a head on one base, trained by one optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import Parameter

from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer


@dataclass(frozen=True, slots=True)
class ActorCritic:
    policy: Trainee
    value: Scorer
    """Begins at zero, or as the reward model: either way a scorer that trains."""

    def __post_init__(self) -> None:
        assert self.value.trains, "a value that does not train cannot follow the policy"

    def parameters(self) -> dict[str, Parameter]:
        policy = {f"policy/{name}": parameter for name, parameter in self.policy.parameters().items()}
        return policy | {f"value/{name}": parameter for name, parameter in self.value.parameters().items()}

    def state(self) -> dict[str, Tensor]:
        policy = {f"policy/{name}": tensor for name, tensor in self.policy.state().items()}
        return policy | {f"value/{name}": tensor for name, tensor in self.value.state().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.policy.load_state(_below("policy/", tensors))
        self.value.load_state(_below("value/", tensors))

    def save(self, folder: Path) -> None:
        """The policy in the folder and the value beside it, in `value/`: only the policy speaks."""
        self.value.save(folder.parent / "value")
        self.policy.save(folder)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
