"""Supervised fine-tuning: maximum likelihood of the answers, every completion token of an update counting the same.

The order of rows is `batches`', the update itself is `optimise`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cai.models.local.logprobs import TokenRow
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.seeds import derive
from cai.train.batches import Batch, Item, plan_batches, sequence_length, tokens_digest
from cai.train.config import SftConfig
from cai.train.losses import negative_log_likelihood
from cai.train.optimise import Gradient, Job, Probe, Step, optimise, require_rows


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
    require_rows(folder, len(rows))
    batches = plan_batches(config, [Item(row.id, sequence_length(row.tokens)) for row in rows])
    ids, weights = [row.id for row in rows], [row.weight for row in rows]
    assert min(weights) > 0, min(weights)
    tokens = tokens_digest((row.id, row.tokens) for row in rows)
    identity = digest(["sft", config.model_dump(), weights, tokens, trainee.view().fingerprint])

    def accumulate(batch: Batch) -> Gradient:
        return sft_gradient(config, rows, batch, trainee)

    yield from optimise(config, Job(identity, ids, batches, trainee, folder, stop, probe), accumulate)


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
    return Gradient(loss_B, {"loss": loss_B.sum(), "tokens": loss_B.new_tensor(float(tokens))})
