"""Supervised fine-tuning: maximum likelihood of the answers, every completion token of an update counting the same.

The order of rows is `batches`', the update itself is `optimise`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cai.models.local.layout import TokenRow, packed_length
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.seeds import derive
from cai.train.batches import Batch, Item, hold_out, plan_batches, split_by_tokens, tokens_digest
from cai.train.config import SftConfig
from cai.train.losses import negative_log_likelihood
from cai.train.optimise import Gradient, Job, Probe, Step, joined, optimise, require_rows


@dataclass(frozen=True, slots=True)
class SftRow:
    id: str
    tokens: TokenRow
    weight: float = 1.0
    """How much each of this row's tokens counts beside those of other rows."""


def train_sft(
    config: SftConfig,
    rows: Sequence[SftRow],
    trainee: Trainee,
    folder: Path,
    stop: Callable[[], bool],
    probe: Probe | None = None,
) -> Iterator[Step]:
    """Train on the rows, or go on where the folder's newest checkpoint stands; ends with `folder/adapter`."""
    parts = hold_out([row.id for row in rows], config.holdout, config.seed)
    trained, held = [rows[i] for i in parts.trained], [rows[i] for i in parts.held]
    require_rows(folder, len(trained))
    batches = plan_batches(config, items_of(trained))
    weights = [row.weight for row in rows]
    assert min(weights) > 0, min(weights)
    tokens = tokens_digest((row.id, row.tokens) for row in rows)
    identity = digest(["sft", config.model_dump(), weights, tokens, trainee.view().fingerprint])
    measure = joined(
        (lambda: held_out_loss(config, held, trainee)) if held else None,
        (lambda: probe(trainee.view())) if probe else None,
    )

    def accumulate(number: int) -> Gradient:
        return sft_gradient(config, trained, batches[number - 1], trainee)

    yield from optimise(config, Job(identity, len(batches), trainee, folder, stop, measure), accumulate)


def items_of(rows: Sequence[SftRow]) -> list[Item]:
    return [Item(row.id, packed_length([row.tokens])) for row in rows]


def sft_gradient(config: SftConfig, rows: Sequence[SftRow], batch: Batch, trainee: Trainee) -> Gradient:
    """Add the gradient of Σ w·nll / Σ w·tokens, both sums over the whole batch, however it is split."""
    tokens = sum(len(rows[i].tokens.completion_ids) for i in batch.rows)
    weight = sum(rows[i].weight * len(rows[i].tokens.completion_ids) for i in batch.rows)
    losses = []
    for part, micro in enumerate(batch.micros):
        # Seeded for each pass, so that no generator's state has to survive an interruption.
        dropout_seed = derive(config.seed, "dropout", batch.number, part)
        logps = trainee.policy_logps([rows[i].tokens for i in micro], dropout_seed, checkpointing=config.checkpointing)
        nll_B = negative_log_likelihood(logps.logps_BT, logps.mask_BT)
        weight_B = torch.tensor([rows[i].weight for i in micro], device=nll_B.device)
        loss_B = nll_B * weight_B / weight
        torch.autograd.backward(loss_B.sum())
        losses.append(loss_B.detach())
    loss_B = torch.cat(losses)
    ids = [rows[i].id for i in batch.rows]
    return Gradient(ids, loss_B, {"loss": loss_B.sum(), "tokens": loss_B.new_tensor(float(tokens))})


def held_out_loss(config: SftConfig, rows: Sequence[SftRow], trainee: Trainee) -> dict[str, float]:
    """The loss of rows that are not trained on, without dropout."""
    total = weight = 0.0
    with torch.no_grad():
        for micro in split_by_tokens(range(len(rows)), items_of(rows), config.micro_tokens):
            logps = trainee.policy_logps([rows[i].tokens for i in micro])
            nll_B = negative_log_likelihood(logps.logps_BT, logps.mask_BT).tolist()
            total += sum(nll * rows[i].weight for nll, i in zip(nll_B, micro, strict=True))
            weight += sum(rows[i].weight * len(rows[i].tokens.completion_ids) for i in micro)
    return {"eval/loss": total / weight}
