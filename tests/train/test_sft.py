"""Supervised fine-tuning on a real, small Llama: what moves, what counts, and that it goes on after anything."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from cai.errors import CaiError, InputError, Interrupted
from cai.models.local.logprobs import TokenLogps, TokenRow
from cai.models.local.roles import Trainee
from cai.train.batches import plan_batches
from cai.train.config import SftConfig
from cai.train.sft import SftRow, items_of, sft_gradient, train_sft

NewTrainee = Callable[..., Trainee]

CONFIG = SftConfig(learning_rate=1e-2, epochs=2, batch_size=5, checkpoint_every=3)


def never() -> bool:
    return False


def base_weights(trainee: Trainee) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainee._network.model.state_dict().items() if ".lora_" not in k}


def gradient_of(rows: list[SftRow], trainee: Trainee, micro_tokens: int = 4096) -> tuple[float, torch.Tensor]:
    config = SftConfig(batch_size=len(rows), micro_tokens=micro_tokens)
    [batch] = plan_batches(config.model_copy(update={"epochs": 1}), items_of(rows))
    for parameter in trainee.parameters().values():
        parameter.grad = None
    loss = sft_gradient(config, rows, batch, trainee).metrics["loss"].item()
    return loss, flat_gradient(trainee)


def flat_gradient(trainee: Trainee) -> torch.Tensor:
    grads = [p.grad for p in trainee.parameters().values()]
    return torch.cat([g.flatten() for g in grads if g is not None])


def test_training_lowers_the_loss_and_moves_the_adapter_and_nothing_else(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    trainee = new_trainee()
    before, frozen = trainee.state(), base_weights(trainee)
    steps = list(train_sft(CONFIG, sft_rows, trainee, tmp_path, never))
    assert [step.number for step in steps] == list(range(1, 9))
    assert all(step.total == 8 for step in steps)
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"] - 0.3
    after = trainee.state()
    assert any(not torch.equal(after[name], before[name]) for name in before if ".lora_A." in name)
    assert all(not torch.equal(after[name], before[name]) for name in before if ".lora_B." in name)
    now = base_weights(trainee)
    assert all(torch.equal(now[name], frozen[name]) for name in frozen)


def test_the_loss_is_the_mean_over_completion_tokens_as_transformers_computes_it(
    new_trainee: NewTrainee, sft_rows: list[SftRow]
) -> None:
    """Labels of −100 on the prompt: dropping the answer mask, or averaging by row, gives another number."""
    trainee = new_trainee()
    losses, tokens = [], 0
    for row in sft_rows:
        ids = torch.tensor([[*row.tokens.prompt_ids, *row.tokens.completion_ids]])
        labels = ids.clone()
        labels[0, : len(row.tokens.prompt_ids)] = -100
        n = len(row.tokens.completion_ids)
        with torch.no_grad():
            losses.append(trainee._network.model(input_ids=ids, labels=labels).loss.item() * n)
        tokens += n
    loss, _ = gradient_of(sft_rows, trainee)
    assert loss == pytest.approx(sum(losses) / tokens, rel=1e-5)


@pytest.mark.parametrize("micro_tokens", [1, 40, 90])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(
    new_trainee: NewTrainee, sft_rows: list[SftRow], micro_tokens: int
) -> None:
    trainee = new_trainee()
    rows = [replace(row, weight=0.5 + i % 3) for i, row in enumerate(sft_rows)]
    whole, whole_gradient = gradient_of(rows, trainee)
    split, split_gradient = gradient_of(rows, trainee, micro_tokens)
    assert split == pytest.approx(whole, rel=1e-6)
    assert (split_gradient - whole_gradient).norm() < 1e-5 * whole_gradient.norm()


def test_a_row_of_weight_two_counts_like_the_row_twice(new_trainee: NewTrainee, sft_rows: list[SftRow]) -> None:
    trainee = new_trainee()
    twice, twice_gradient = gradient_of([*sft_rows[:3], replace(sft_rows[0], id="again")], trainee)
    heavy, heavy_gradient = gradient_of([replace(sft_rows[0], weight=2.0), *sft_rows[1:3]], trainee)
    assert heavy == pytest.approx(twice, rel=1e-6)
    assert (heavy_gradient - twice_gradient).norm() < 1e-5 * twice_gradient.norm()


def test_metrics_are_written_one_line_for_each_update_and_the_adapter_last(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    training = train_sft(CONFIG, sft_rows, new_trainee(), tmp_path, never)
    steps = [next(training)]
    assert not (tmp_path / "adapter").exists()
    steps += training
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step.number, **step.metrics} for step in steps]
    assert steps[0].metrics.keys() == {"loss", "grad_norm", "learning_rate", "tokens"}
    per_epoch = sum(len(row.tokens.completion_ids) for row in sft_rows)
    assert sum(step.metrics["tokens"] for step in steps) == 2 * per_epoch
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (tmp_path / "adapter.unfinished").exists()


def test_the_first_update_moves_weights_by_the_rate_that_it_reports_with_a_gradient_clipped_to_its_limit(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    """AdamW's first update is ± the rate wherever there is a gradient: here half of the peak."""
    config = CONFIG.model_copy(update={"batch_size": 10, "warmup": 0.3, "max_grad_norm": 0.01})
    trainee = new_trainee()
    before = trainee.state()
    training = train_sft(config, sft_rows, trainee, tmp_path, never)
    metrics = next(training).metrics
    assert metrics["learning_rate"] == pytest.approx(0.005)
    moved = max((value - before[name]).abs().max().item() for name, value in trainee.state().items())
    assert moved == pytest.approx(0.005, rel=1e-3)
    assert metrics["grad_norm"] > 0.1
    assert flat_gradient(trainee).norm().item() == pytest.approx(0.01, rel=1e-3)
    training.close()
    assert all(parameter.grad is None for parameter in trainee.parameters().values())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("stop_after", "dropout"), [(0, 0.0), (1, 0.0), (3, 0.0), (4, 0.2), (7, 0.0)])
def test_a_stopped_training_goes_on_to_the_very_same_folder(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path, stop_after: int, dropout: float
) -> None:
    straight = list(train_sft(CONFIG, sft_rows, new_trainee(dropout=dropout), tmp_path / "straight", never))
    polls = count()
    stopped = train_sft(
        CONFIG, sft_rows, new_trainee(dropout=dropout), tmp_path / "stopped", lambda: next(polls) == stop_after
    )
    with pytest.raises(Interrupted, match=f"after update {stop_after} of 8"):
        list(stopped)
    assert not (tmp_path / "stopped" / "adapter").exists()
    resumed = train_sft(CONFIG, sft_rows, new_trainee(dropout=dropout), tmp_path / "stopped", never)
    assert list(resumed) == straight[stop_after:]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_training_killed_between_checkpoints_repeats_the_lost_updates_exactly(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    straight = list(train_sft(CONFIG, sft_rows, new_trainee(), tmp_path / "straight", never))
    killed = train_sft(CONFIG, sft_rows, new_trainee(), tmp_path / "killed", never)
    for _ in range(5):
        next(killed)
    killed.close()
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as torn:
        torn.write('{"step":6,"lo')
    resumed = list(train_sft(CONFIG, sft_rows, new_trainee(), tmp_path / "killed", never))
    assert resumed == straight[3:]
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_closing_saves_nothing_and_a_finished_training_only_writes_its_adapter_again(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    training = train_sft(CONFIG, sft_rows, new_trainee(), tmp_path, never)
    next(training)
    training.close()
    assert not (tmp_path / "checkpoints").exists()
    list(train_sft(CONFIG, sft_rows, new_trainee(), tmp_path, never))
    whole = contents(tmp_path)
    assert list(train_sft(CONFIG, sft_rows, new_trainee(), tmp_path, never)) == []
    assert contents(tmp_path) == whole


def test_dropout_changes_the_training_and_only_by_its_seed(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    def losses(name: str, dropout: float, noise: int) -> list[float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            return [
                s.metrics["loss"]
                for s in train_sft(CONFIG, sft_rows, new_trainee(dropout=dropout), tmp_path / name, never)
            ]

    assert losses("a", 0.3, noise=1) == losses("b", 0.3, noise=2)
    assert losses("c", 0.0, noise=1) != losses("a2", 0.3, noise=1)


def test_the_order_of_the_rows_in_the_file_does_not_matter(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    one = list(train_sft(CONFIG, sft_rows, new_trainee(), tmp_path / "one", never))
    assert one == list(train_sft(CONFIG, sft_rows[::-1], new_trainee(), tmp_path / "two", never))
    other_seed = CONFIG.model_copy(update={"seed": 1})
    assert one != list(train_sft(other_seed, sft_rows, new_trainee(), tmp_path / "three", never))


def test_a_probe_is_run_where_asked_and_joins_the_metrics(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"probe_every": 3})
    steps = list(train_sft(config, sft_rows, new_trainee(), tmp_path, never, lambda model: {"probe/one": 1.0}))
    assert [step.number for step in steps if "probe/one" in step.metrics] == [3, 6, 8]


def test_no_rows_are_refused(new_trainee: NewTrainee, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row to train on"):
        next(train_sft(CONFIG, [], new_trainee(), tmp_path, never))
    assert list(tmp_path.iterdir()) == []


def test_on_a_four_bit_base_the_adapter_learns_and_the_base_stays_four_bit_and_frozen(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    trainee = new_trainee(quantization="nf4")
    frozen = base_weights(trainee)
    assert any(weight.dtype == torch.uint8 for weight in frozen.values())
    steps = list(train_sft(CONFIG, sft_rows, trainee, tmp_path, never))
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"] - 0.3
    now = base_weights(trainee)
    assert all(torch.equal(now[name], frozen[name]) for name in frozen)


class BrokenOn:
    """A real trainee that one row gives no number for."""

    def __init__(self, trainee: Trainee, row: TokenRow) -> None:
        self.trainee, self.row = trainee, row
        self.parameters, self.state = trainee.parameters, trainee.state
        self.view, self.save, self.load_state = trainee.view, trainee.save, trainee.load_state

    def policy_logps(
        self, rows: list[TokenRow], dropout_seed: int | None = None, *, checkpointing: bool = False
    ) -> TokenLogps:
        logps = self.trainee.policy_logps(rows, dropout_seed, checkpointing=checkpointing)
        factor = torch.tensor([float("nan") if row == self.row else 1.0 for row in rows])
        return TokenLogps(logps.logps_BT * factor[:, None], logps.mask_BT)


def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_row(
    new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path
) -> None:
    trainee = new_trainee()
    before = trainee.state()
    broken = BrokenOn(trainee, sft_rows[4].tokens)
    config = CONFIG.model_copy(update={"batch_size": 20})
    with pytest.raises(CaiError, match=r"update 1 of 2: the loss is not a finite number in rows row-4;"):
        list(train_sft(config, sft_rows, broken, tmp_path, never))  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in trainee.state().items())
