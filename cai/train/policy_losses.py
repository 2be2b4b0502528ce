"""What a policy and its value lose: pure functions of log-probabilities and values, token by token or answer by answer.

Nothing is averaged here but by weights whose sums are known before the first forward pass, so that an update split into
any number of passes is the same update.
Shapes: B answers of a forward pass, T their tokens, U value positions.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregate = Literal["token", "rollout", "answer", "constant"]


@dataclass(frozen=True, slots=True)
class Clip:
    """How far below and above 1 a ratio may go."""

    low: float = 0.2
    high: float = 0.2


@dataclass(frozen=True, slots=True)
class Totals:
    """What averages divide by, of a whole update."""

    answers: int
    tokens: int
    round_tokens: float
    """An update's share of its round: the round's tokens over the updates of one pass."""
    longest: int
    """The most tokens that an answer may have."""


def clipped(log_ratios: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε′) A), ρ = π / π_old. Schulman et al. 2017, equation 7; ε′ apart from ε as in Yu et
    al. 2025, DAPO, equation 8. Of tokens or, where the logarithms were summed, of answers."""
    ratios = log_ratios.exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip.low, 1 + clip.high) * advantages)


def stops(log_ratios: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """Where the clipped side is the smaller one, so that nothing has a gradient."""
    ratios = log_ratios.exp()
    return ((ratios < 1 - clip.low) & (advantages < 0)) | ((ratios > 1 + clip.high) & (advantages > 0))


def k3(new_BT: Tensor, old_BT: Tensor, reference_BT: Tensor, *, corrected: bool) -> Tensor:
    """e^d − d − 1, d = log π_ref − log π: Shao et al. 2024, equation 4. `corrected` multiplies it by π / π_old, with
    the gradient of both: on tokens of π_old its gradient is then that of the divergence of π from π_ref."""
    d_BT = reference_BT - new_BT
    divergence_BT = d_BT.exp() - d_BT - 1
    return divergence_BT * (new_BT - old_BT).exp() if corrected else divergence_BT


def value_loss(values_BU: Tensor, old_BU: Tensor, returns_BU: Tensor, clip: float) -> Tensor:
    """½ max[(V − R)², (V_old + clip(V − V_old, ±ε) − R)²]: Ziegler et al. 2019's code, as Huang et al. 2024, "The N+
    implementation details of RLHF with PPO", describe it."""
    near_BU = old_BU + (values_BU - old_BU).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_BU - returns_BU) ** 2, (near_BU - returns_BU) ** 2)


def token_weights(aggregate: Aggregate, mask_BT: Tensor, totals: Totals) -> Tensor:
    """What each token counts; over a whole update a loss is Σ weight · loss."""
    mask_BT = mask_BT.to(torch.float32)
    match aggregate:
        case "token":
            return mask_BT / totals.tokens
        case "rollout":
            return mask_BT / totals.round_tokens
        case "answer":
            return mask_BT / mask_BT.sum(dim=1, keepdim=True) / totals.answers
        case "constant":
            return mask_BT / (totals.answers * totals.longest)
