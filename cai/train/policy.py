"""Training from rewards: one loop of sampling, rewarding and learning, with PPO, RLOO and GRPO as its methods.

What a round begins with is `experience`'s, what is lost `policy_losses`', which answers stand behind which update
`rounds`', the update itself `optimise`'s. Old log-probabilities come from the training pass, not from the sampler, on
passes of the same shape as the first update's: before it the ratio is 1, and that is checked. Where nothing asks for
them before, they are the first update's own. No pass has dropout, and every pass divides its logits by the sampling
temperature. The end of turn is a token of the answer like any other.
Shapes: N answers of a round, B of a forward pass, T their tokens, U value positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cai.errors import CaiError, InputError
from cai.models.local.layout import TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer
from cai.records import digest
from cai.train.actor_critic import ActorCritic
from cai.train.batches import hold_out, tokens_digest
from cai.train.config import PolicyConfig
from cai.train.experience import Scene, begin_round, drift, held_out, with_ends
from cai.train.optimise import Gradient, Job, Probe, Step, joined, optimise, require_rows
from cai.train.policy_losses import Clip, Totals, clipped, k3, stops, token_weights, value_loss
from cai.train.rollout import PromptRow, RewardFn
from cai.train.rounds import Held, Round, Update, adapted, passes, plan_updates

_ROUNDING = 1e-3
"""The most, in nats, by which a token's log-probability may differ between two passes of one shape over one policy."""


def train_policy(
    config: PolicyConfig,
    prompts: Sequence[PromptRow],
    actor: Trainee | ActorCritic,
    reward: RewardFn,
    folder: Path,
    stop: Callable[[], bool],
    probe: Probe | None = None,
) -> Iterator[Step]:
    """Train on answers to the prompts, or go on where the folder's newest checkpoint stands; ends with
    `folder/adapter`, and for `ppo` with `folder/value`. Answers and rewards are kept in `folder/rollouts`."""
    policy, value = (actor.policy, actor.value) if isinstance(actor, ActorCritic) else (actor, None)
    _require_value(config, folder, value)
    ids = [prompt.id for prompt in prompts]
    assert len(set(ids)) == len(ids), "two prompts have the same id"
    parts = hold_out(ids, config.holdout, config.seed)
    trained, asked = [prompts[i] for i in parts.trained], [prompts[i] for i in parts.held]
    require_rows(folder, len(trained))
    tokens = tokens_digest((prompt.id, TokenRow(prompt.prompt_ids, ())) for prompt in prompts)
    began = [policy.view().fingerprint, value.fingerprint if value else None]
    identity = digest(["policy", config.model_dump(), tokens, began])
    updates = plan_updates(config, [prompt.id for prompt in trained])
    held = Held(trained, config.kl)
    scene = Scene(config, trained, policy, value, reward, folder / "rollouts")

    def accumulate(number: int) -> Gradient:
        update, told = updates[number - 1], dict[str, float]()
        if update.begins:
            begun = begin_round(scene, update, held.price)
            held.round, told = begun.round, begun.metrics
        assert held.round is not None and held.round.number == update.round, update
        gradient = policy_gradient(scene, held.round, update)
        if update.begins:
            told |= drift(held.round)
            n = len(held.round.rows)
            held.price = adapted(held.price, told["kl"], n, config.kl_target, config.kl_horizon)
        there = gradient.row_losses_B.new_tensor
        return Gradient(gradient.ids, gradient.row_losses_B, gradient.metrics | {k: there(v) for k, v in told.items()})

    measure = joined(
        (lambda: held_out(scene, asked)) if asked else None,
        (lambda: probe(policy.view())) if probe else None,
    )
    yield from optimise(config, Job(identity, len(updates), actor, folder, stop, measure, held), accumulate)


def policy_gradient(scene: Scene, round_: Round, update: Update) -> Gradient:
    """Add an update's gradient, however it is split into forward passes."""
    config, answers = scene.config, scene.minibatch(update)
    tokens = sum(len(round_.rows[i].completion_ids) for i in answers)
    totals = Totals(len(answers), tokens, round_.tokens / update.parts, config.max_new_tokens)
    value_positions = int(round_.value_mask_NU[list(answers)].sum())
    ids, losses, sums = list[str](), [], []
    for own in passes(config, round_.rows, answers):
        objective = _policy_pass(scene, round_, own, totals, update)
        torch.autograd.backward(objective.loss_B.sum())
        loss_B, told = objective.loss_B.detach(), objective.told_M
        if scene.value is not None:
            value_B = _value_pass(scene.value, round_, own, config) / value_positions
            torch.autograd.backward(config.value_weight * value_B.sum())
            loss_B = loss_B + config.value_weight * value_B.detach()
            told = torch.cat([told, objective.loss_B.detach().sum()[None], value_B.detach().sum()[None]])
        ids += [round_.ids[i] for i in own]
        losses.append(loss_B)
        sums.append(told)
    loss_B = torch.cat(losses)
    metrics = dict(zip(_TOLD, torch.stack(sums).sum(dim=0), strict=False)) | {"loss": loss_B.sum()}
    if update.begins:
        metrics["ratio/first"] = metrics["ratio"]
    return Gradient(ids, loss_B, {**metrics, "tokens": loss_B.new_tensor(float(tokens))})


_TOLD = ("ratio", "clip_ratio", "policy_loss", "value_loss")
"""Sums over an update's passes; the latter two only where there is a value."""


@dataclass(frozen=True, slots=True)
class _Objective:
    loss_B: Tensor
    told_M: Tensor


def _policy_pass(scene: Scene, round_: Round, answers: Sequence[int], totals: Totals, update: Update) -> _Objective:
    config, rows = scene.config, [round_.rows[i] for i in answers]
    new = scene.policy.policy_logps(rows, temperature=config.temperature, checkpointing=config.checkpointing)
    if update.begins and not update.looks_back(config):
        round_.remember(answers, new.logps_BT.detach())
    part = round_.of(answers, new.logps_BT.shape[1], new.logps_BT.device)
    log_ratios = (new.logps_BT - part.old_BT).masked_fill(~new.mask_BT, 0.0)
    if update.begins:
        _require_same(log_ratios.detach(), [round_.ids[i] for i in answers])
    advantages, weights = part.advantages_BT, token_weights(config.aggregate, new.mask_BT, totals)
    counts = token_weights("token", new.mask_BT, totals)
    if config.method == "rloo":
        # One ratio, one advantage and one vote for a whole answer: Ahmadian et al. 2024, section 3.
        log_ratios, advantages = log_ratios.sum(dim=1, keepdim=True), advantages[:, :1]
        weights = counts = torch.full_like(log_ratios, 1 / totals.answers)
    clip = Clip(config.clip, config.clip if config.clip_high is None else config.clip_high)
    losses = clipped(log_ratios, advantages, clip)
    if config.method == "grpo" and round_.price > 0:
        divergence_BT = k3(new.logps_BT, part.old_BT, part.reference_BT, corrected=config.kl_corrected)
        losses = losses + round_.price * divergence_BT
    with torch.no_grad():
        told = [(counts * log_ratios.exp()).sum(), (counts * stops(log_ratios, advantages, clip)).sum()]
    return _Objective((weights * losses).sum(dim=1), torch.stack(told))


def _value_pass(value: Scorer, round_: Round, answers: Sequence[int], config: PolicyConfig) -> Tensor:
    """Each answer's value loss (B), summed over its positions."""
    rows = [round_.rows[i] for i in answers]
    values_BU = with_ends(value.values(rows, checkpointing=config.checkpointing))
    part = round_.of(answers, values_BU.shape[1] - 1, values_BU.device)
    losses_BU = value_loss(values_BU, part.values_BU, part.returns_BU, config.value_clip)
    return losses_BU.masked_fill(~part.value_mask_BU, 0.0).sum(dim=1)


def _require_same(log_ratios_BT: Tensor, ids: Sequence[str]) -> None:
    """Before a round's first step the policy is the one that sampled, so every ratio is 1."""
    gaps_B = log_ratios_BT.abs().amax(dim=1)
    worst = int(gaps_B.argmax())
    gap = gaps_B[worst].item()
    if not gap <= _ROUNDING:
        raise CaiError(
            f"answer {ids[worst]}: before the round's first step a token's log-probability is {gap:.3g} nats away from "
            f"what the same policy gave, and rounding explains {_ROUNDING} at most; dropout, another precision or "
            "another temperature is on in one of the two passes"
        )


def _require_value(config: PolicyConfig, folder: Path, value: Scorer | None) -> None:
    if (config.method == "ppo") != (value is not None):
        remedy = "give ActorCritic(policy, value)" if value is None else "give the policy alone, or take method: ppo"
        problem = "learns a value, and none was given" if value is None else "learns no value, and one was given"
        raise InputError(str(folder), f"method {config.method} {problem}", None, remedy)
