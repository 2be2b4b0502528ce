"""What a round begins with: answers sampled and rewarded, and what each of their tokens was worth.

Nothing here has a gradient. What is learnt from it is `policy`'s.
Shapes: N answers of a round, B of a forward pass, T their tokens, U value positions, G prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional

from cai.models.local.layout import TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer
from cai.models.local.scoring import TokenValues
from cai.train.advantages import ADVANTAGES, AdvantageSettings, Scored, without_end
from cai.train.config import PolicyConfig
from cai.train.rewards import rewarded
from cai.train.rollout import PromptRow, RewardFn, keep, looks, sample
from cai.train.rounds import Round, Update, minibatch, passes

EQUAL = 1e-6
"""Rewards whose deviation is less are the same number with rounding."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What stays the same through all rounds."""

    config: PolicyConfig
    prompts: Sequence[PromptRow]
    policy: Trainee
    value: Scorer | None
    reward: RewardFn
    rollouts: Path
    """Where each round's answers are kept."""

    def minibatch(self, update: Update) -> tuple[int, ...]:
        return minibatch(self.config, update, [prompt.id for prompt in self.prompts])


@dataclass(frozen=True, slots=True)
class Begun:
    round: Round
    metrics: dict[str, float]


def begin_round(scene: Scene, update: Update, price: float) -> Begun:
    """Sample answers, have them rewarded, and find what each of their tokens was worth."""
    config = scene.config
    prompts = [scene.prompts[i] for i in update.prompts]
    with scene.policy.resting() as view:
        rollouts = sample(config, prompts, view, ("round", update.round), config.samples)
    rewards = rewarded(scene.reward, rollouts)
    keep(scene.rollouts / f"{update.round:08d}.jsonl", rollouts, {"reward": rewards.total, **_named(rewards.parts)})
    ended_N = torch.tensor([rollout.ended for rollout in rollouts])
    scores_N = without_end(torch.tensor(rewards.total), ended_N, config.unfinished, config.unfinished_reward)
    rows = [rollout.tokens for rollout in rollouts]
    seen = _look_back(scene, update, rows)
    value_mask_NU = _value_mask(config, seen.mask_NT, ended_N)
    scored = Scored(scores_N, seen.old_NT, seen.reference_NT, seen.mask_NT, seen.values_NU, value_mask_NU)
    settings = AdvantageSettings(
        price, config.samples, config.gamma, config.lam, config.whiten_rewards, config.scale_advantages
    )
    advantages = ADVANTAGES[config.method](scored, settings)
    nothing_NU = torch.zeros(len(rows), 0)
    begun = Round(
        update.round,
        price,
        tuple(prompt for prompt in update.prompts for _ in range(config.samples)),
        tuple(rollout.id for rollout in rollouts),
        tuple(rows),
        scored.old_NT,
        scored.reference_NT,
        advantages.policy_NT,
        nothing_NU if scored.values_NU is None else scored.values_NU,
        nothing_NU if advantages.returns_NU is None else advantages.returns_NU,
        nothing_NU if scene.value is None else value_mask_NU,
    )
    of_parts = {name: fmean(values) for name, values in _named(rewards.parts).items()}
    return Begun(begun, {**_measure(config, scored), "kl_coefficient": price, **of_parts, **looks(rollouts)})


def drift(round_: Round) -> dict[str, float]:
    """How far the policy that sampled was from the reference, in nats per answer, and its −log p of a token. Known
    after the round's first update."""
    divergence = (round_.old_NT - round_.reference_NT).sum(dim=1).mean()
    return {"kl": divergence.item(), "entropy": (-round_.old_NT.sum() / round_.tokens).item()}


def held_out(scene: Scene, prompts: Sequence[PromptRow]) -> dict[str, float]:
    """The reward of one answer to each prompt that is not trained on; the same draws every time."""
    with scene.policy.resting() as view:
        rollouts = sample(scene.config, prompts, view, ("held out",), 1)
    rewards = rewarded(scene.reward, rollouts)
    found = {"reward": rewards.total, **_named(rewards.parts)}
    lengths = {"eval/completions/mean_length": looks(rollouts)["completions/mean_length"]}
    return {f"eval/{name}": fmean(values) for name, values in found.items()} | lengths


def with_ends(values: TokenValues) -> Tensor:
    """The values (B, U) of the states before each token and behind the last one."""
    lengths_B1 = values.mask_BT.sum(dim=1, keepdim=True)
    return functional.pad(values.values_BT, (0, 1)).scatter(1, lengths_B1, values.ends_B[:, None])


@dataclass(frozen=True, slots=True)
class _Seen:
    old_NT: Tensor
    reference_NT: Tensor
    mask_NT: Tensor
    values_NU: Tensor | None


def _look_back(scene: Scene, update: Update, rows: Sequence[TokenRow]) -> _Seen:
    """What reference, value and, where it looks back, the policy have to say of the answers, on the very passes of the
    round's first epoch."""
    n, width, config = len(rows), max(len(row.completion_ids) for row in rows), scene.config
    old_NT, reference_NT = torch.zeros(n, width), torch.zeros(n, width)
    values_NU = torch.zeros(n, width + 1)
    mask_NT = torch.arange(width) < torch.tensor([[len(row.completion_ids)] for row in rows])
    for part in range(update.parts):
        for answers in passes(config, rows, scene.minibatch(replace(update, part=part))):
            own = [rows[i] for i in answers]
            with torch.no_grad():
                reference = scene.policy.reference_logps(own, temperature=config.temperature).logps_BT
                reference_NT[answers, : reference.shape[1]] = reference.cpu()
                if update.looks_back(config):
                    old = scene.policy.policy_logps(own, temperature=config.temperature).logps_BT
                    old_NT[answers, : old.shape[1]] = old.cpu()
                if scene.value is not None:
                    values_NU[answers, : reference.shape[1] + 1] = with_ends(scene.value.values(own)).cpu()
    return _Seen(old_NT, reference_NT, mask_NT, None if scene.value is None else values_NU)


def _value_mask(config: PolicyConfig, mask_NT: Tensor, ended_N: Tensor) -> Tensor:
    """Where values count: at each token, and where the score comes `after` also behind the last one. An answer that was
    cut has nothing behind it."""
    extra_N = ended_N if config.score_at == "after" else torch.zeros_like(ended_N)
    return torch.arange(mask_NT.shape[1] + 1) < (mask_NT.sum(dim=1) + extra_N)[:, None]


def _measure(config: PolicyConfig, scored: Scored) -> dict[str, float]:
    found = {"reward": scored.scores_N.mean()}
    if config.method == "ppo":
        found["reward_std"] = scored.scores_N.std(correction=0)
    else:
        spread_G = scored.scores_N.view(-1, config.samples).std(dim=1)
        found |= {"reward_std": spread_G.mean(), "frac_reward_zero_std": (spread_G < EQUAL).float().mean()}
    return {name: value.item() for name, value in found.items()}


def _named(parts: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {f"rewards/{name}": values for name, values in parts.items()}
