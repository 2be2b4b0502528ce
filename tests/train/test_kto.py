"""KTO on a real, small Llama: its drift, its direction, and going on after anything."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from cai.errors import InputError, Interrupted
from cai.models.local.layout import TokenRow
from cai.models.local.roles import Trainee
from cai.train.batches import plan_batches
from cai.train.config import KtoConfig
from cai.train.kto import KtoRow, items_of, kto_gradient, train_kto
from cai.train.kto import _references as references_of
from cai.train.reference import PairRow

CONFIG = KtoConfig(learning_rate=1e-2, epochs=2, batch_size=8, checkpoint_every=3)
NewTrainee = Callable[..., Trainee]


def never() -> bool:
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def rows(pair_rows: list[PairRow]) -> list[KtoRow]:
    """Chosen answers as desirable rows, rejected ones as undesirable: 40 rows, or five batches."""
    good = [KtoRow(f"{row.id}-good", row.chosen, 1.0) for row in pair_rows]
    return good + [KtoRow(f"{row.id}-bad", row.rejected, 0.0) for row in pair_rows]


def sums(trainee: Trainee, rows: list[KtoRow]) -> torch.Tensor:
    with torch.no_grad():
        return trainee.policy_logps([row.tokens for row in rows]).sums()


def test_desirable_answers_rise_and_undesirable_ones_fall(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path
) -> None:
    for name, labelled, sign in (("straight", rows, 1), ("flipped", [turned(row) for row in rows], -1)):
        trainee = new_trainee()
        before = sums(trainee, rows)
        steps = list(train_kto(CONFIG, labelled, trainee, tmp_path / name, never))
        moved = sums(trainee, rows) - before
        half = len(rows) // 2
        assert sign * (moved[:half].mean() - moved[half:].mean()) > 1.0
        assert steps[-1].metrics["rewards/margins"] > 0


def test_before_the_first_update_nothing_has_drifted_and_every_answer_costs_one_half(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path
) -> None:
    first = next(train_kto(CONFIG, rows, new_trainee(), tmp_path, never)).metrics
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx(0.5, abs=1e-6)
    assert first["grad_norm"] > 0


def test_the_drift_is_the_mean_over_the_whole_update_of_strange_answers(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path
) -> None:
    """Each row's prompt with the answer of the row before it, worked out one row at a time."""
    trainee = new_trainee()
    batch = plan_batches(CONFIG, items_of(rows))[0]
    [reference] = references_of(rows, [batch], trainee, tmp_path / "reference", never)
    with torch.no_grad():
        for parameter in trainee.parameters().values():
            parameter.add_(0.03)
    drifts = []
    for place, i in enumerate(batch.rows):
        strange = TokenRow(rows[i].tokens.prompt_ids, rows[batch.rows[place - 1]].tokens.completion_ids)
        with torch.no_grad():
            drifts.append(trainee.policy_logps([strange]).sums() - trainee.reference_logps([strange]).sums())
    wanted = max(0.0, torch.cat(drifts).mean().item())
    told = kto_gradient(CONFIG, rows, batch, trainee, reference).metrics["kl"].item()
    assert told == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("micro_tokens", [1, 60, 150])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path, micro_tokens: int
) -> None:
    def measure(micro_tokens: int) -> tuple[float, torch.Tensor]:
        config = CONFIG.model_copy(update={"batch_size": 40, "micro_tokens": micro_tokens})
        batch = plan_batches(config, items_of(rows))[0]
        # The order within a batch decides which answers are strange, and the longest rows come first in both.
        trainee = new_trainee()
        [reference] = references_of(rows, [batch], trainee, tmp_path / str(micro_tokens), never)
        with torch.no_grad():
            for parameter in trainee.parameters().values():
                parameter.add_(0.02)
        loss = kto_gradient(config, rows, batch, trainee, reference).metrics["loss"].item()
        return loss, torch.cat([p.grad.flatten() for p in trainee.parameters().values()])

    (whole, whole_gradient), (split, split_gradient) = measure(100_000), measure(micro_tokens)
    assert split == pytest.approx(whole, rel=1e-5)
    assert (split_gradient - whole_gradient).norm() < 1e-4 * whole_gradient.norm()


def test_a_probability_of_one_half_teaches_nothing_unless_labels_are_hard(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path
) -> None:
    undecided = [replace(row, p_desirable=0.5) for row in rows]
    assert next(train_kto(CONFIG, undecided, new_trainee(), tmp_path / "soft", never)).metrics["grad_norm"] < 1e-6
    hard = CONFIG.model_copy(update={"labels": "hard"})
    assert next(train_kto(hard, undecided, new_trainee(), tmp_path / "hard", never)).metrics["grad_norm"] > 1e-3


def test_a_row_that_would_be_alone_joins_the_update_before(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path
) -> None:
    steps = list(train_kto(CONFIG, rows[:33], new_trainee(), tmp_path, never))
    assert steps[0].total == 2 * 4
    per_epoch = sum(len(row.tokens.completion_ids) for row in rows[:33])
    assert sum(step.metrics["tokens"] for step in steps) == 2 * per_epoch


def test_one_row_is_too_few(new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give two rows or more"):
        next(train_kto(CONFIG, rows[:1], new_trainee(), tmp_path, never))


@pytest.mark.parametrize("stop_after", [1, 4, 7, 9])
def test_a_stopped_training_goes_on_to_the_very_same_folder(
    new_trainee: NewTrainee, rows: list[KtoRow], tmp_path: Path, stop_after: int
) -> None:
    config = CONFIG.model_copy(update={"holdout": 0.1, "probe_every": 4})

    def train(name: str, stop: Callable[[], bool]) -> Iterator[object]:
        return train_kto(config, rows, new_trainee(), tmp_path / name, stop)

    straight = list(train("straight", never))
    polls = count(-11)  # ten updates' and one held-out batch's reference come first
    with pytest.raises(Interrupted, match=f"after update {stop_after} of 10"):
        list(train("stopped", lambda: next(polls) == stop_after))
    assert list(train("stopped", never)) == straight[stop_after:]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def turned(row: KtoRow) -> KtoRow:
    return replace(row, p_desirable=1 - row.p_desirable)
