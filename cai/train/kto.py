"""KTO: training on single answers, each desirable or not, by how far they stand from what the policy drifts to anyway.

The equation is `losses`', the update itself is `optimise`'s. The drift z of an update is measured on its own prompts,
each with the answer to another prompt of the update, before its gradient; the reference's part of it is computed once.
Shapes: B rows of a forward pass, N rows of an update.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cai.errors import InputError
from cai.models.local.layout import TokenRow, packed_length
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.train.batches import Batch, Item, hold_out, plan_batches, split_by_tokens, tokens_digest
from cai.train.config import KtoConfig
from cai.train.losses import kto
from cai.train.optimise import Gradient, Job, Probe, Step, joined, optimise, require_rows
from cai.train.reference import kept_sums


@dataclass(frozen=True, slots=True)
class KtoRow:
    id: str
    tokens: TokenRow
    p_desirable: float = 1.0
    """How likely it is that this answer is one to have more of."""


@dataclass(frozen=True, slots=True)
class _Reference:
    """Summed log-probabilities of an update's rows and of its strange pairings, in the order of `batch.rows`."""

    own_N: Tensor
    strange_N: Tensor


def train_kto(
    config: KtoConfig,
    rows: Sequence[KtoRow],
    trainee: Trainee,
    folder: Path,
    stop: Callable[[], bool],
    probe: Probe | None = None,
) -> Iterator[Step]:
    """Train on the rows, or go on where the folder's newest checkpoint stands; ends with `folder/adapter`."""
    targets = [row.p_desirable for row in rows]
    assert all(0 <= p <= 1 for p in targets), targets
    parts = hold_out([row.id for row in rows], config.holdout, config.seed)
    trained, held = [rows[i] for i in parts.trained], [rows[i] for i in parts.held]
    require_rows(folder, len(trained))
    if len(trained) < 2 or len(held) == 1:
        problem = "kto tries each prompt with another one's answer, and there is one row alone"
        raise InputError(str(folder), problem, None, "give two rows or more, to train on and to hold out")
    batches = _none_alone(plan_batches(config, items_of(trained)), config, trained)
    tokens = tokens_digest((row.id, row.tokens) for row in rows)
    identity = digest(["kto", config.model_dump(), targets, tokens, trainee.view().fingerprint])
    references = _references(trained, batches, trainee, folder / "reference", stop)
    measured = Batch(0, 0, split_by_tokens(range(len(held)), items_of(held), config.micro_tokens))
    of_held = _references(held, [measured], trainee, folder / "reference-held", stop) if held else []

    def accumulate(number: int) -> Gradient:
        return kto_gradient(config, trained, batches[number - 1], trainee, references[number - 1])

    measure = joined(
        (lambda: held_out(config, held, measured, trainee, of_held[0])) if held else None,
        (lambda: probe(trainee.view())) if probe else None,
    )
    yield from optimise(config, Job(identity, len(batches), trainee, folder, stop, measure), accumulate)


def items_of(rows: Sequence[KtoRow]) -> list[Item]:
    return [Item(row.id, packed_length([row.tokens])) for row in rows]


def kto_gradient(
    config: KtoConfig, rows: Sequence[KtoRow], batch: Batch, trainee: Trainee, reference: _Reference
) -> Gradient:
    """Add the gradient of the mean loss over the whole batch, however it is split into forward passes."""
    drift = _drift(rows, batch, trainee, reference)
    ratios, losses = [], []
    done = 0
    for micro in batch.micros:
        sums_B = trainee.policy_logps([rows[i].tokens for i in micro], checkpointing=config.checkpointing).sums()
        ratio_B = sums_B - reference.own_N[done : done + len(micro)].to(sums_B.device)
        loss_B = _losses(config, [rows[i] for i in micro], ratio_B, drift) / len(batch.rows)
        torch.autograd.backward(loss_B.sum())
        ratios.append(ratio_B.detach())
        losses.append(loss_B.detach())
        done += len(micro)
    chosen = [rows[i] for i in batch.rows]
    loss_N = torch.cat(losses)
    tokens = loss_N.new_tensor(float(sum(len(row.tokens.completion_ids) for row in chosen)))
    measures = _measure(config, chosen, torch.cat(ratios), drift, reference)
    return Gradient([row.id for row in chosen], loss_N, {"loss": loss_N.sum(), **measures, "tokens": tokens})


def held_out(
    config: KtoConfig, rows: Sequence[KtoRow], batch: Batch, trainee: Trainee, reference: _Reference
) -> dict[str, float]:
    """Loss and measures of rows that are not trained on."""
    drift = _drift(rows, batch, trainee, reference)
    chosen = [rows[i] for i in batch.rows]
    with torch.no_grad():
        sums = [trainee.policy_logps([rows[i].tokens for i in micro]).sums().cpu() for micro in batch.micros]
    ratio_N = torch.cat(sums) - reference.own_N
    told = {"loss": _losses(config, chosen, ratio_N, drift.cpu()).mean()}
    told |= _measure(config, chosen, ratio_N, drift.cpu(), reference)
    return {f"eval/{name}": value.item() for name, value in told.items()}


def _losses(config: KtoConfig, rows: Sequence[KtoRow], ratio_B: Tensor, drift: Tensor) -> Tensor:
    return kto(ratio_B, _desirable(config, rows, ratio_B), drift, config.beta, (config.desirable, config.undesirable))


def _desirable(config: KtoConfig, rows: Sequence[KtoRow], like: Tensor) -> Tensor:
    soft = [row.p_desirable for row in rows]
    return like.new_tensor(soft if config.labels == "soft" else [float(p >= 0.5) for p in soft])


def _measure(
    config: KtoConfig, rows: Sequence[KtoRow], ratio_N: Tensor, drift: Tensor, reference: _Reference
) -> dict[str, Tensor]:
    """Rewards and log-probabilities of both kinds, where the batch has both; `kl` is the drift."""
    p_N = _desirable(config, rows, ratio_N)
    told = {"kl": drift}
    for name, weight_N in (("chosen", p_N), ("rejected", 1 - p_N)):
        if weight_N.sum() > 0:
            told[f"rewards/{name}"] = config.beta * (ratio_N * weight_N).sum() / weight_N.sum()
            logps_N = ratio_N + reference.own_N.to(ratio_N.device)
            told[f"logps/{name}"] = (logps_N * weight_N).sum() / weight_N.sum()
    if "rewards/chosen" in told and "rewards/rejected" in told:
        told["rewards/margins"] = told["rewards/chosen"] - told["rewards/rejected"]
    return told


def _drift(rows: Sequence[KtoRow], batch: Batch, trainee: Trainee, reference: _Reference) -> Tensor:
    """z = max(0, mean of log π(y'|x) − log π_ref(y'|x)) over the whole update."""
    strange = _strange(rows, batch)
    with torch.no_grad():
        sums = [trainee.policy_logps(part).sums() for part in strange]
    return (torch.cat(sums) - reference.strange_N.to(sums[0].device)).mean().clamp(min=0)


def _strange(rows: Sequence[KtoRow], batch: Batch) -> list[list[TokenRow]]:
    """Each row's prompt with the answer of the row before it in the update, pass by pass."""
    order = batch.rows
    turned = dict(zip(order, (order[-1], *order[:-1]), strict=True))
    return [
        [TokenRow(rows[i].tokens.prompt_ids, rows[turned[i]].tokens.completion_ids) for i in micro]
        for micro in batch.micros
    ]


def _references(
    rows: Sequence[KtoRow], batches: Sequence[Batch], trainee: Trainee, kept: Path, stop: Callable[[], bool]
) -> list[_Reference]:
    """For every update; a row and its strange pairing go through one pass, which reads their prompt once."""
    passes = [
        [
            [*(rows[i].tokens for i in micro), *strange]
            for micro, strange in zip(b.micros, _strange(rows, b), strict=True)
        ]
        for b in batches
    ]
    halves = [[sums_B.chunk(2) for sums_B in batch] for batch in kept_sums(passes, trainee, kept, stop)]
    return [_Reference(torch.cat([own for own, _ in b]), torch.cat([strange for _, strange in b])) for b in halves]


def _none_alone(batches: Sequence[Batch], config: KtoConfig, rows: Sequence[KtoRow]) -> list[Batch]:
    """A last row of an epoch that would be alone in its update joins the update before."""
    items, kept = items_of(rows), list[Batch]()
    for batch in batches:
        if len(batch.rows) == 1 and kept:
            both = split_by_tokens((*kept[-1].rows, *batch.rows), items, config.micro_tokens)
            kept[-1] = replace(kept[-1], micros=both)
        else:
            kept.append(replace(batch, number=len(kept) + 1))
    return kept
