"""Advantages: pure functions from an answer's score and its log-probabilities to what each of its tokens was worth.

What is done with an advantage is `policy_losses`', where scores come from `rewards`'.
Shapes: N answers of a round, those to one prompt side by side; T their tokens; U value positions, T or one more; G
prompts, K answers to each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WHITEN_EPSILON = 1e-8
SCALE_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class Scored:
    """A round's answers as they were sampled: nothing here has a gradient."""

    scores_N: Tensor
    old_NT: Tensor
    """log π of each token at the time of sampling."""
    reference_NT: Tensor
    mask_NT: Tensor
    values_NU: Tensor | None = None
    """V of the state before each token; behind the last one, of what then is."""
    value_mask_NU: Tensor | None = None
    """Positions that have a value. The last of each answer's is where its score comes."""

    @property
    def k1(self) -> Tensor:
        """log π − log π_ref: of sampled tokens, its mean is the divergence. Schulman 2020, "Approximating KL"."""
        return (self.old_NT - self.reference_NT).masked_fill(~self.mask_NT, 0.0)


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    kl: float = 0.0
    samples: int = 1
    """K, the answers to each prompt."""
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    scale: bool = True


@dataclass(frozen=True, slots=True)
class Advantages:
    policy_NT: Tensor
    """Zero where there is no token."""
    returns_NU: Tensor | None = None
    """What the value should have been."""


def gae(scored: Scored, settings: AdvantageSettings) -> Advantages:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t, where nothing is to come behind an answer. Schulman et al.
    2016, equation 16.

    r_t = −β (log π − log π_ref), and the score once, with the last value position (Ziegler et al. 2019, equation 2);
    returns are A + V, and A is whitened over the round's tokens afterwards.
    """
    values_NU, mask_NU = scored.values_NU, scored.value_mask_NU
    assert values_NU is not None and mask_NU is not None, "generalised advantages need values"
    rewards_NU = torch.zeros_like(values_NU)
    rewards_NU[:, : scored.k1.shape[1]] = -settings.kl * scored.k1
    rewards_NU[torch.arange(len(rewards_NU)), mask_NU.sum(dim=1) - 1] += scored.scores_N
    if settings.whiten_rewards:
        rewards_NU = whitened(rewards_NU, mask_NU, keep_mean=True)
    values_NU = values_NU.masked_fill(~mask_NU, 0.0)
    later_N, next_value_N = torch.zeros_like(scored.scores_N), torch.zeros_like(scored.scores_N)
    found = []
    for u in reversed(range(values_NU.shape[1])):
        delta_N = rewards_NU[:, u] + settings.gamma * next_value_N - values_NU[:, u]
        later_N = (delta_N + settings.gamma * settings.lam * later_N).masked_fill(~mask_NU[:, u], 0.0)
        next_value_N = values_NU[:, u]
        found.append(later_N)
    advantages_NU = torch.stack(found[::-1], dim=1)
    policy_NT = whitened(advantages_NU[:, : scored.mask_NT.shape[1]], scored.mask_NT, keep_mean=False)
    return Advantages(policy_NT, (advantages_NU + values_NU).masked_fill(~mask_NU, 0.0))


def leave_one_out(scored: Scored, settings: AdvantageSettings) -> Advantages:
    """A_i = R_i − 1/(K−1) Σ_{j≠i} R_j, R = r − β Σ_t (log π − log π_ref). Ahmadian et al. 2024, equation 8, with
    equation 1's penalty."""
    rewards_GK = (scored.scores_N - settings.kl * scored.k1.sum(dim=1)).view(-1, settings.samples)
    others_GK = (rewards_GK.sum(dim=1, keepdim=True) - rewards_GK) / (settings.samples - 1)
    return _of_answers(rewards_GK - others_GK, scored)


def group_relative(scored: Scored, settings: AdvantageSettings) -> Advantages:
    """A_i = (r_i − mean r) / (std r + 1e-4) over the answers to a prompt, the deviation that of n − 1. Shao et al.
    2024, section 4.1.2; without the division Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2."""
    scores_GK = scored.scores_N.view(-1, settings.samples)
    above_GK = scores_GK - scores_GK.mean(dim=1, keepdim=True)
    if settings.scale:
        above_GK = above_GK / (scores_GK.std(dim=1, keepdim=True) + SCALE_EPSILON)
    return _of_answers(above_GK, scored)


ADVANTAGES: dict[str, Callable[[Scored, AdvantageSettings], Advantages]] = {
    "ppo": gae,
    "rloo": leave_one_out,
    "grpo": group_relative,
}


def whitened(values_NT: Tensor, mask_NT: Tensor, *, keep_mean: bool) -> Tensor:
    """(x − mean) / √(var + 1e-8) over what the mask shows, with the mean added again or not; zero elsewhere. The
    variance is that of n, as in Ziegler et al.'s code; TRL's was that of n − 1."""
    seen = values_NT[mask_NT]
    mean = seen.mean()
    scaled_NT = (values_NT - mean) * torch.rsqrt(seen.var(correction=0) + WHITEN_EPSILON)
    return (scaled_NT + mean if keep_mean else scaled_NT).masked_fill(~mask_NT, 0.0)


def without_end(scores_N: Tensor, ended_N: Tensor, how: Literal["keep", "replace", "reduce"], reward: float) -> Tensor:
    """Scores, where those of answers that did not end are kept, replaced by a reward, or changed by it."""
    match how:
        case "keep":
            return scores_N
        case "replace":
            return torch.where(ended_N, scores_N, torch.full_like(scores_N, reward))
        case "reduce":
            return torch.where(ended_N, scores_N, scores_N + reward)


def _of_answers(advantages_GK: Tensor, scored: Scored) -> Advantages:
    return Advantages(advantages_GK.flatten()[:, None] * scored.mask_NT)
