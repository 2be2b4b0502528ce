"""Training on judged pairs: one trainer, with the losses of the DPO family.

The equations are `losses`', the reference's log-probabilities are `reference`'s, the update itself is `optimise`'s.
Rewards are β times the summed log-ratio of policy to reference, as in Rafailov et al. 2023, section 4.
Shapes: B pairs of a forward pass or of a batch, M measures (the names in `_MEASURES`).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cai.errors import CaiError
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.train.batches import Batch, Item, plan_batches, sequence_length, tokens_digest
from cai.train.config import DpoConfig
from cai.train.losses import LossSettings, PairLogps, preference_loss
from cai.train.optimise import Gradient, Job, Probe, Step, optimise, require_rows
from cai.train.reference import PairRow, Reference, answers, reference_logps

_MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
_ROUNDING = 2e-4
"""The most, in nats, by which an untrained policy and its reference may differ on an answer. The same kernels compute
both on batches of the same shape; a larger gap means another precision, another adapter or an active dropout."""


def train_dpo(
    config: DpoConfig,
    rows: Sequence[PairRow],
    trainee: Trainee,
    folder: Path,
    stop: Callable[[], bool],
    probe: Probe | None = None,
) -> Iterator[Step]:
    """Train on the pairs, or go on where the folder's newest checkpoint stands; ends with `folder/adapter`."""
    require_rows(folder, len(rows))
    ids, targets = [row.id for row in rows], [row.p_chosen for row in rows]
    assert all(0 <= p <= 1 for p in targets), targets
    items = [Item(row.id, max(map(sequence_length, (row.chosen, row.rejected))), sequences=2) for row in rows]
    batches = plan_batches(config, items)
    tokens = tokens_digest((row.id, answer) for row in rows for answer in (row.chosen, row.rejected))
    identity = digest(["dpo", config.model_dump(), targets, tokens, trainee.view().fingerprint])
    # The first epoch has every pair once: the reference is computed on its very batches.
    first_epoch = [batch for batch in batches if batch.epoch == 0]
    reference = reference_logps(rows, first_epoch, trainee, folder, stop)

    def accumulate(batch: Batch) -> Gradient:
        return dpo_gradient(config, rows, batch, trainee, reference, at_start=batch.number == 1)

    yield from optimise(config, Job(identity, ids, batches, trainee, folder, stop, probe), accumulate)


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
    settings = LossSettings(config.beta, config.label_smoothing)
    losses, measures = [], []
    for micro in batch.micros:
        logps = trainee.policy_logps(answers(rows, micro), checkpointing=config.checkpointing)
        sums_B, lengths_B = logps.sums(), logps.lengths()
        index, n = list(micro), len(micro)
        pairs = PairLogps(
            sums_B[:n],
            sums_B[n:],
            reference.chosen_N[index].to(sums_B.device),
            reference.rejected_N[index].to(sums_B.device),
        )
        if at_start:
            _require_equal(pairs, [rows[i].id for i in micro])
        compared = pairs if config.log_ratios == "sum" else pairs.averaged(lengths_B[:n], lengths_B[n:])
        p_B = sums_B.new_tensor([rows[i].p_chosen if config.labels == "soft" else 1.0 for i in micro])
        loss_B = preference_loss(config.loss, compared, p_B, settings)
        torch.autograd.backward(loss_B.sum() / len(batch.rows))
        losses.append(loss_B.detach())
        measures.append(_measure(pairs, config.beta))
    loss_B = torch.cat(losses)
    means = torch.cat(measures, dim=1).mean(dim=1)
    tokens = sum(len(answer.completion_ids) for answer in answers(rows, batch.rows))
    metrics = {"loss": loss_B.mean(), **dict(zip(_MEASURES, means, strict=True))}
    return Gradient(loss_B, {**metrics, "tokens": loss_B.new_tensor(float(tokens))})


def _measure(pairs: PairLogps, beta: float) -> Tensor:
    """(M, B), in the order of `_MEASURES`."""
    with torch.no_grad():
        chosen_B, rejected_B = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
        margins_B = chosen_B - rejected_B
        accuracies_B = (margins_B > 0).float()
        return torch.stack(
            [chosen_B, rejected_B, margins_B, accuracies_B, pairs.policy_chosen_B, pairs.policy_rejected_B]
        )


def _require_equal(pairs: PairLogps, ids: Sequence[str]) -> None:
    """Before the first update every log-ratio is zero, so a DPO loss is ln 2 whatever the data."""
    gaps_B = torch.maximum(pairs.chosen_ratio.detach().abs(), pairs.rejected_ratio.detach().abs())
    worst = int(gaps_B.argmax())
    gap = gaps_B[worst].item()
    if gap > _ROUNDING:
        raise CaiError(
            f"pair {ids[worst]}: before the first update the policy is {gap:.3g} nats away from its reference, and "
            f"rounding explains {_ROUNDING} at most; train from the adapter that the reference was taken from, with "
            "the same precision and without dropout"
        )
