"""Training on judged pairs: one trainer, with the losses of the DPO family and those that need no reference.

The equations are `losses`', the reference's log-probabilities are `reference`'s, the update itself is `optimise`'s.
Rewards are β times the log-ratio of policy to reference, summed over an answer's tokens, as in Rafailov et al. 2023,
section 4; where a loss has no reference, β times the log-probabilities that it compares, summed or per token.
Shapes: B pairs of a forward pass or of a batch, M measures (the names in `_MEASURES`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cai.errors import CaiError
from cai.models.local.layout import TokenRow, packed_length
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.seeds import derive
from cai.train.batches import Batch, Item, hold_out, plan_batches, split_by_tokens, tokens_digest
from cai.train.config import DpoConfig
from cai.train.losses import LossSettings, PairLogps, negative_log_likelihood, preference_loss
from cai.train.optimise import Gradient, Job, Probe, Step, joined, optimise, require_rows
from cai.train.reference import PairRow, Reference, answers, no_reference, reference_logps

_MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
_ROUNDING, _RELATIVE = 2e-4, 1e-6
"""The most by which an untrained policy and its reference may differ on an answer: nats, and a share of the answer's
own, since beyond 2048 nats fp32 counts in steps of 0.00024. The same kernels compute both on batches of the same shape;
a larger gap means another precision, another adapter or an active dropout."""


def train_dpo(
    config: DpoConfig,
    rows: Sequence[PairRow],
    trainee: Trainee,
    folder: Path,
    stop: Callable[[], bool],
    probe: Probe | None = None,
) -> Iterator[Step]:
    """Train on the pairs, or go on where the folder's newest checkpoint stands; ends with `folder/adapter`."""
    targets = [row.p_chosen for row in rows]
    assert all(0 <= p <= 1 for p in targets), targets
    parts = hold_out([row.id for row in rows], config.holdout, config.seed)
    trained, held = [rows[i] for i in parts.trained], [rows[i] for i in parts.held]
    require_rows(folder, len(trained))
    batches = plan_batches(config, items_of(trained))
    tokens = tokens_digest((row.id, answer) for row in rows for answer in (row.chosen, row.rejected))
    identity = digest(["dpo", config.model_dump(), targets, tokens, trainee.view().fingerprint])
    # The first epoch has every pair once: the reference is computed on its very batches.
    first_epoch = [batch for batch in batches if batch.epoch == 0]
    measured = Batch(0, 0, split_by_tokens(range(len(held)), items_of(held), config.micro_tokens))
    if config.recipe.reference:
        reference = reference_logps(trained, first_epoch, trainee, folder / "reference", stop)
        of_held = reference_logps(held, [measured], trainee, folder / "reference-held", stop) if held else None
    else:
        reference, of_held = no_reference(len(trained)), no_reference(len(held))

    def accumulate(number: int) -> Gradient:
        return dpo_gradient(config, trained, batches[number - 1], trainee, reference, at_start=number == 1)

    measure = joined(
        (lambda: held_out(config, held, measured, trainee, of_held)) if of_held is not None and held else None,
        (lambda: probe(trainee.view())) if probe else None,
    )
    yield from optimise(config, Job(identity, len(batches), trainee, folder, stop, measure), accumulate)


def items_of(rows: Sequence[PairRow]) -> list[Item]:
    return [Item(row.id, packed_length([row.chosen, row.rejected])) for row in rows]


def dpo_gradient(
    config: DpoConfig,
    rows: Sequence[PairRow],
    batch: Batch,
    trainee: Trainee,
    reference: Reference,
    *,
    at_start: bool = False,
) -> Gradient:
    """Add the gradient of the mean loss over the whole batch, however it is split into forward passes."""
    recipe = config.recipe
    likely = sum(_likely_tokens(config, rows[i]) for i in batch.rows)
    losses, measures = [], []
    for part, micro in enumerate(batch.micros):
        seed = derive(config.seed, "dropout", batch.number, part) if config.dropout else None
        pairs = _forward(config, [rows[i] for i in micro], trainee, reference.of(micro), seed)
        if at_start and recipe.reference and not config.dropout:
            _require_equal(pairs.summed, [rows[i].id for i in micro])
        loss_B = _losses(config, [rows[i] for i in micro], pairs) / len(batch.rows)
        if recipe.nll:
            loss_B = loss_B + recipe.nll * pairs.nll_B / likely
        torch.autograd.backward(loss_B.sum())
        losses.append(loss_B.detach())
        measures.append(_measure(config, pairs))
    loss_B = torch.cat(losses)
    means = torch.cat(measures, dim=1).mean(dim=1)
    tokens = sum(len(answer.completion_ids) for answer in answers(rows, batch.rows))
    metrics = {"loss": loss_B.sum(), **dict(zip(_MEASURES, means, strict=True))}
    ids = [rows[i].id for i in batch.rows]
    return Gradient(ids, loss_B, {**metrics, "tokens": loss_B.new_tensor(float(tokens))})


def held_out(
    config: DpoConfig, rows: Sequence[PairRow], batch: Batch, trainee: Trainee, reference: Reference
) -> dict[str, float]:
    """Loss and measures of pairs that are not trained on, without dropout."""
    losses, measures = [], []
    with torch.no_grad():
        for micro in batch.micros:
            pairs = _forward(config, [rows[i] for i in micro], trainee, reference.of(micro), None)
            losses.append(_losses(config, [rows[i] for i in micro], pairs))
            measures.append(_measure(config, pairs))
    means = torch.cat(measures, dim=1).mean(dim=1).tolist()
    told = dict(zip(_MEASURES, means, strict=True))
    return {"eval/loss": torch.cat(losses).mean().item(), **{f"eval/{name}": value for name, value in told.items()}}


@dataclass(frozen=True, slots=True)
class _Pairs:
    summed: PairLogps
    compared: PairLogps
    """Summed or per token, as the loss wants it."""
    nll_B: Tensor
    """−log p of the chosen answer, or of its prompt and it, summed; zero where no loss asks for it."""


def _forward(
    config: DpoConfig, rows: Sequence[PairRow], trainee: Trainee, reference: PairLogps, dropout_seed: int | None
) -> _Pairs:
    n = len(rows)
    asked = [row.chosen for row in rows] + [row.rejected for row in rows]
    whole = config.recipe.nll > 0 and config.nll_tokens == "all"
    asked += [_whole(row.chosen) for row in rows] if whole else []
    logps = trainee.policy_logps(asked, dropout_seed, checkpointing=config.checkpointing)
    sums_B, lengths_B = logps.sums(), logps.lengths()
    there = (each.to(sums_B.device) for each in (reference.reference_chosen_B, reference.reference_rejected_B))
    summed = PairLogps(sums_B[:n], sums_B[n : 2 * n], *there)
    mean = config.recipe.log_ratios == "mean"
    compared = summed.averaged(lengths_B[:n], lengths_B[n : 2 * n]) if mean else summed
    likely = slice(2 * n, 3 * n) if whole else slice(0, n)
    return _Pairs(summed, compared, negative_log_likelihood(logps.logps_BT[likely], logps.mask_BT[likely]))


def _losses(config: DpoConfig, rows: Sequence[PairRow], pairs: _Pairs) -> Tensor:
    settings = LossSettings(config.recipe.beta, config.label_smoothing, config.margin)
    p_B = pairs.nll_B.new_tensor([row.p_chosen if config.labels == "soft" else 1.0 for row in rows])
    return preference_loss(config.loss, pairs.compared, p_B, settings)


def _whole(row: TokenRow) -> TokenRow:
    """Prompt and answer as one text, of which only the first token is given."""
    return TokenRow(row.prompt_ids[:1], row.prompt_ids[1:] + row.completion_ids)


def _likely_tokens(config: DpoConfig, row: PairRow) -> int:
    chosen = _whole(row.chosen) if config.nll_tokens == "all" else row.chosen
    return len(chosen.completion_ids)


def _measure(config: DpoConfig, pairs: _Pairs) -> Tensor:
    """(M, B), in the order of `_MEASURES`."""
    told = pairs.summed if config.recipe.reference else pairs.compared
    with torch.no_grad():
        chosen_B, rejected_B = config.recipe.beta * told.chosen_ratio, config.recipe.beta * told.rejected_ratio
        margins_B = chosen_B - rejected_B
        accuracies_B = (margins_B > 0).float()
        return torch.stack(
            [chosen_B, rejected_B, margins_B, accuracies_B, told.policy_chosen_B, told.policy_rejected_B]
        )


def _require_equal(pairs: PairLogps, ids: Sequence[str]) -> None:
    """Before the first update every log-ratio is zero, so a DPO loss is ln 2 whatever the data."""
    gaps_2B = torch.stack([pairs.chosen_ratio, pairs.rejected_ratio]).detach().abs()
    allowed_2B = _ROUNDING + _RELATIVE * torch.stack([pairs.reference_chosen_B, pairs.reference_rejected_B]).abs()
    worst = int((gaps_2B - allowed_2B).amax(0).argmax())
    side = int((gaps_2B - allowed_2B)[:, worst].argmax())
    gap, allowed = gaps_2B[side, worst].item(), allowed_2B[side, worst].item()
    if gap > allowed:
        raise CaiError(
            f"pair {ids[worst]}: before the first update the policy is {gap:.3g} nats away from its reference, and "
            f"rounding explains {allowed:.1g} at most; train from the adapter that the reference was taken from, with "
            "the same precision and without dropout"
        )
