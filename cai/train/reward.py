"""A reward model: one fp32 score for each answer, learnt from judged pairs, with what it is worth on pairs held out.

The equation is `losses`', the scores come from a `Scorer`'s adapter and head, the update itself is `optimise`'s. Only
differences of scores are learnt, so their zero is arbitrary: `reward.json` beside the adapter has the mean score of the
answers trained on, which whoever uses the scores subtracts.
Shapes: B pairs of a forward pass or of a batch, M measures (the names in `_MEASURES`).
"""

import json
import statistics as plain
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from cai.files import write_atomic
from cai.models.local.scorer import Scorer
from cai.records import digest
from cai.seeds import derive
from cai.statistics import expected_calibration_error
from cai.train.batches import Batch, hold_out, plan_batches, split_by_tokens, tokens_digest
from cai.train.config import RewardConfig
from cai.train.losses import reward_model
from cai.train.optimise import Gradient, Job, Measure, Step, joined, optimise, require_rows
from cai.train.preference import items_of
from cai.train.reference import PairRow, answers
from cai.train.reward_facts import FACTS, RewardFacts

_MEASURES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def train_reward(
    config: RewardConfig,
    rows: Sequence[PairRow],
    scorer: Scorer,
    folder: Path,
    stop: Callable[[], bool],
    probe: Callable[[Scorer], Mapping[str, float]] | None = None,
) -> Iterator[Step]:
    """Train on the pairs, or go on where the folder's newest checkpoint stands; ends with `folder/adapter`."""
    parts = hold_out([row.id for row in rows], config.holdout if len(rows) > 1 else 0.0, config.seed)
    trained, held = [rows[i] for i in parts.trained], [rows[i] for i in parts.held]
    require_rows(folder, len(trained))
    batches = plan_batches(config, items_of(trained))
    tokens = tokens_digest((row.id, answer) for row in rows for answer in (row.chosen, row.rejected))
    labels = [[row.p_chosen, row.margin] for row in rows]
    identity = digest(["reward", config.model_dump(), labels, tokens, scorer.fingerprint])
    measure: Measure | None = joined(
        (lambda: held_out(config, held, scorer)) if held else None,
        (lambda: probe(scorer)) if probe else None,
    )

    def accumulate(number: int) -> Gradient:
        return reward_gradient(config, trained, batches[number - 1], scorer)

    learner = _Learner(config, scorer, trained, held)
    yield from optimise(config, Job(identity, len(batches), learner, folder, stop, measure), accumulate)


def reward_gradient(config: RewardConfig, rows: Sequence[PairRow], batch: Batch, scorer: Scorer) -> Gradient:
    """Add the gradient of the mean loss over the whole batch, however it is split into forward passes."""
    losses, measures = [], []
    for part, micro in enumerate(batch.micros):
        seed = derive(config.seed, "dropout", batch.number, part) if config.dropout else None
        scores_B = scorer.scores(answers(rows, micro), seed, checkpointing=config.checkpointing)
        chosen_B, rejected_B = scores_B.split(len(micro))
        loss_B = _losses(config, [rows[i] for i in micro], chosen_B, rejected_B) / len(batch.rows)
        torch.autograd.backward(loss_B.sum())
        losses.append(loss_B.detach())
        measures.append(_measure(chosen_B.detach(), rejected_B.detach()))
    loss_B, means = torch.cat(losses), torch.cat(measures, dim=1).mean(dim=1)
    tokens = float(sum(len(answer.completion_ids) for answer in answers(rows, batch.rows)))
    metrics = {"loss": loss_B.sum(), **dict(zip(_MEASURES, means, strict=True)), "tokens": loss_B.new_tensor(tokens)}
    return Gradient([rows[i].id for i in batch.rows], loss_B, metrics)


def held_out(config: RewardConfig, rows: Sequence[PairRow], scorer: Scorer) -> dict[str, float]:
    """Loss, accuracy and calibration on pairs that are not trained on, without dropout."""
    chosen_N, rejected_N = _scores(config, rows, scorer)
    loss = _losses(config, rows, chosen_N, rejected_N).mean().item()
    means = _measure(chosen_N, rejected_N).mean(dim=1).tolist()
    told = {f"eval/{name}": value for name, value in zip(_MEASURES, means, strict=True)}
    sure = torch.sigmoid(chosen_N - rejected_N).tolist()
    error = expected_calibration_error(sure, [row.p_chosen for row in rows])
    return {"eval/loss": loss, **told, "eval/calibration_error": error}


def _scores(config: RewardConfig, rows: Sequence[PairRow], scorer: Scorer) -> tuple[Tensor, Tensor]:
    """(chosen, rejected), in the order of the rows and without gradients."""
    micros = split_by_tokens(range(len(rows)), items_of(rows), config.micro_tokens)
    order = torch.argsort(torch.tensor([row for micro in micros for row in micro]))
    with torch.no_grad():
        both = [scorer.scores(answers(rows, micro)).cpu().split(len(micro)) for micro in micros]
    return torch.cat([chosen for chosen, _ in both])[order], torch.cat([rejected for _, rejected in both])[order]


def _losses(config: RewardConfig, rows: Sequence[PairRow], chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    p_B = chosen_B.new_tensor([row.p_chosen if config.labels == "soft" else 1.0 for row in rows])
    margin_B = chosen_B.new_tensor([row.margin for row in rows])
    return reward_model(chosen_B, rejected_B, p_B, margin_B, config.centring)


def _measure(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """(M, B), in the order of `_MEASURES`."""
    margins_B = chosen_B - rejected_B
    return torch.stack([chosen_B, rejected_B, margins_B, (margins_B > 0).float()])


class _Learner:
    """The scorer, which on saving also tells what its scores are worth."""

    def __init__(
        self, config: RewardConfig, scorer: Scorer, trained: Sequence[PairRow], held: Sequence[PairRow]
    ) -> None:
        self._config, self._scorer, self._trained, self._held = config, scorer, trained, held

    def parameters(self) -> dict[str, Parameter]:
        return self._scorer.parameters()

    def state(self) -> dict[str, Tensor]:
        return self._scorer.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._scorer.load_state(tensors)

    def save(self, folder: Path) -> None:
        self._scorer.save(folder)
        scores = torch.cat(_scores(self._config, self._trained, self._scorer)).tolist()
        measured = held_out(self._config, self._held, self._scorer) if self._held else {}
        facts = RewardFacts(
            plain.fmean(scores),
            plain.pstdev(scores),
            measured.get("eval/rewards/accuracies"),
            measured.get("eval/calibration_error"),
            len(self._held),
        )
        write_atomic(folder / FACTS, json.dumps(asdict(facts), indent=2) + "\n")
