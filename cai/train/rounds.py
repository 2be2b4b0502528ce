"""The rounds of a policy training: which prompts and answers stand behind which update, and what a round leaves behind.

Every update is planned at the start from ids and seed. What was sampled is carried from update to update and goes into
checkpoints, so that going on in the middle of a round is going on with the same answers.
Shapes: N answers of a round, those to one prompt side by side; T their tokens; U value positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.models.local.layout import TokenRow, pass_plan
from cai.seeds import derive
from cai.train.batches import epoch_order
from cai.train.config import PolicyConfig
from cai.train.rollout import PromptRow

FASTEST = 0.2
"""The most that one round's divergence counts, as a share of its target, when the price adapts."""


@dataclass(frozen=True, slots=True)
class Update:
    round: int
    """Counted from 1."""
    prompts: tuple[int, ...]
    """The round's, as positions in the caller's sequence."""
    epoch: int
    """The pass over the round, counted from 0."""
    part: int
    parts: int
    """Updates in each pass."""

    @property
    def begins(self) -> bool:
        """Whether answers are sampled first, and the policy is still the one that gave them."""
        return self.epoch == 0 and self.part == 0

    def looks_back(self, config: PolicyConfig) -> bool:
        """Whether the policy reads its answers before it learns from them. GRPO's advantages do not ask for that, and
        where the first update reads the whole round anyway, it finds what the policy was on its way."""
        return config.method != "grpo" or self.parts > 1


def plan_updates(config: PolicyConfig, ids: Sequence[str]) -> list[Update]:
    """Every update of the training, in order. An epoch's last round may have fewer prompts."""
    updates: list[Update] = []
    number = 0
    for epoch in range(config.epochs):
        order = epoch_order(ids, config.seed, epoch)
        for start in range(0, len(order), config.batch_size):
            number += 1
            prompts = tuple(order[start : start + config.batch_size])
            parts = min(config.minibatches, len(prompts) * config.samples)
            updates += [
                Update(number, prompts, e, p, parts) for e in range(config.rollout_epochs) for p in range(parts)
            ]
    return updates


def minibatch(config: PolicyConfig, update: Update, ids: Sequence[str]) -> tuple[int, ...]:
    """The answers behind an update, as positions in its round. Answers to one prompt are neighbours, so that most of
    them share a pass. PPO's epochs each have an order of their own, the others' all have the same, as TRL has it."""
    order = list(range(len(update.prompts)))
    if config.method == "ppo":
        own = [ids[prompt] for prompt in update.prompts]
        order = epoch_order(own, derive(config.seed, "round", update.round), update.epoch)
    answers = [group * config.samples + number for group in order for number in range(config.samples)]
    start, end = (len(answers) * part // update.parts for part in (update.part, update.part + 1))
    return tuple(answers[start:end])


def passes(config: PolicyConfig, rows: Sequence[TokenRow], answers: Sequence[int]) -> list[list[int]]:
    """These answers split into forward passes, those to one prompt together where they fit."""
    plan = pass_plan([rows[answer] for answer in answers], config.micro_tokens)
    return [[answers[i] for i in each] for each in plan]


def adapted(price: float, divergence: float, answers: int, target: float | None, horizon: int) -> float:
    """β (1 + e n/h), e = clip(KL/target − 1, ±0.2). Ziegler et al. 2019, section 2.2. Without a target it stays."""
    if target is None:
        return price
    error = min(max(divergence / target - 1, -FASTEST), FASTEST)
    return price * (1 + error * answers / horizon)


@dataclass(frozen=True, slots=True)
class Round:
    """Sampled answers and what is to be learnt from them. Numbers are on the CPU."""

    number: int
    price: float
    """What a nat between policy and reference costs in this round."""
    prompts: tuple[int, ...]
    """Of each answer, as a position in the caller's sequence."""
    ids: tuple[str, ...]
    rows: tuple[TokenRow, ...]
    old_NT: Tensor
    """Zero until the first update where no pass looks back."""
    reference_NT: Tensor
    advantages_NT: Tensor
    values_NU: Tensor
    """As they were when the answers were sampled; without any position where the method has no value."""
    returns_NU: Tensor
    value_mask_NU: Tensor

    @property
    def tokens(self) -> int:
        return sum(len(row.completion_ids) for row in self.rows)

    def remember(self, answers: Sequence[int], old_BT: Tensor) -> None:
        """What the policy that sampled gives to these answers' tokens."""
        self.old_NT[list(answers), : old_BT.shape[1]] = old_BT.cpu()

    def of(self, answers: Sequence[int], width: int, device: torch.device) -> "Part":
        """What is known of some answers, as wide as the longest of them."""
        at = torch.tensor(list(answers))
        tokens = (each[at, :width].to(device) for each in (self.old_NT, self.reference_NT, self.advantages_NT))
        states = (each[at, : width + 1].to(device) for each in (self.values_NU, self.returns_NU, self.value_mask_NU))
        return Part(*tokens, *states)


@dataclass(frozen=True, slots=True)
class Part:
    """A round's numbers for the answers of one forward pass, on its device."""

    old_BT: Tensor
    reference_BT: Tensor
    advantages_BT: Tensor
    values_BU: Tensor
    returns_BU: Tensor
    value_mask_BU: Tensor


class Held:
    """What a policy training has beside its weights: the round it is in, and the price of divergence in the next."""

    def __init__(self, prompts: Sequence[PromptRow], price: float) -> None:
        self._prompts = prompts
        self.price = price
        self.round: Round | None = None

    def state(self) -> dict[str, Tensor]:
        tensors = {"price": torch.tensor(self.price, dtype=torch.float64)}
        now = self.round
        if now is None:
            return tensors
        drawn = [torch.tensor(row.completion_ids) for row in now.rows]
        return tensors | {
            "round/number": torch.tensor(now.number),
            "round/price": torch.tensor(now.price, dtype=torch.float64),
            "round/prompts_N": torch.tensor(now.prompts),
            "round/lengths_N": torch.tensor([len(ids) for ids in drawn]),
            "round/completions_NT": torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True),
            **{f"round/{name}": getattr(now, name) for name in _TENSORS},
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.price, self.round = tensors["price"].item(), None
        if "round/number" not in tensors:
            return
        lengths = tensors["round/lengths_N"].tolist()
        prompts = tuple(tensors["round/prompts_N"].tolist())
        drawn = [ids[:n] for ids, n in zip(tensors["round/completions_NT"].tolist(), lengths, strict=True)]
        rows = [TokenRow(self._prompts[p].prompt_ids, tuple(ids)) for p, ids in zip(prompts, drawn, strict=True)]
        number, price = int(tensors["round/number"]), tensors["round/price"].item()
        ids = tuple(f"{self._prompts[p].id}/{prompts[:i].count(p)}" for i, p in enumerate(prompts))
        own = {name: tensors[f"round/{name}"] for name in _TENSORS}
        self.round = Round(number, price, prompts, ids, tuple(rows), **own)


_TENSORS = ("old_NT", "reference_NT", "advantages_NT", "values_NU", "returns_NU", "value_mask_NU")
