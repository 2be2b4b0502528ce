"""DPO and its family on a real, small Llama: the start, the direction, the reference, and going on after anything."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from cai.errors import CaiError, Interrupted
from cai.models.local.logprobs import TokenLogps, TokenRow
from cai.models.local.roles import Trainee
from cai.train import preference
from cai.train.batches import plan_batches
from cai.train.config import DpoConfig, SftConfig
from cai.train.losses import LOSSES, PairLogps
from cai.train.preference import dpo_gradient, items_of, train_dpo
from cai.train.reference import PairRow, reference_logps
from cai.train.sft import SftRow, train_sft

NewTrainee = Callable[..., Trainee]
CONFIG = DpoConfig(learning_rate=1e-2, epochs=2, batch_size=5, checkpoint_every=3)
SMOOTHING = {"cdpo": 0.1, "robust": 0.1}


def never() -> bool:
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def start(new_trainee: NewTrainee, sft_rows: list[SftRow], tmp_path: Path) -> Path:
    """An adapter that fine-tuning has moved."""
    folder = tmp_path / "sft"
    list(train_sft(SftConfig(learning_rate=1e-2, epochs=1), sft_rows, new_trainee(), folder, never))
    return folder / "adapter"


def test_the_first_loss_is_ln_2_from_the_base_and_from_an_adapter(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path
) -> None:
    trainees = {
        "base": new_trainee(),
        "tuned": new_trainee(start),
        "nf4": new_trainee(quantization="nf4"),
        "dropout": new_trainee(dropout=0.5),
    }
    for name, trainee in trainees.items():
        first = next(train_dpo(CONFIG, pair_rows, trainee, tmp_path / name, never)).metrics
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert first["grad_norm"] > 0


def test_the_metrics_have_their_known_names(new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path) -> None:
    steps = list(train_dpo(CONFIG, pair_rows, new_trainee(), tmp_path, never))
    known = "loss grad_norm learning_rate tokens rewards/chosen rewards/rejected rewards/margins rewards/accuracies"
    assert set(steps[0].metrics) == {*known.split(), "logps/chosen", "logps/rejected"}
    for metrics in (step.metrics for step in steps):
        assert metrics["rewards/margins"] == pytest.approx(
            metrics["rewards/chosen"] - metrics["rewards/rejected"], abs=1e-5
        )
    per_epoch = sum(len(row.chosen.completion_ids) + len(row.rejected.completion_ids) for row in pair_rows)
    assert sum(step.metrics["tokens"] for step in steps) == 2 * per_epoch


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_training_raises_chosen_above_rejected_and_flipped_pairs_do_the_opposite(
    new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path, loss: str
) -> None:
    """Judged by log-probabilities before and after, not by the trainer's own metrics, so no flipped sign can hide."""
    config = CONFIG.model_copy(update={"loss": loss, "label_smoothing": SMOOTHING.get(loss, 0.0), "epochs": 4})
    for name, rows, sign in (("straight", pair_rows, 1), ("flipped", [flipped(row) for row in pair_rows], -1)):
        trainee = new_trainee()
        before = margin(trainee, pair_rows)
        steps = list(train_dpo(config, rows, trainee, tmp_path / name, never))
        assert sign * (margin(trainee, pair_rows) - before) > 1.0
        # Without a reference an answer that was likely from the start stays ahead for longer.
        assert steps[-1].metrics["rewards/accuracies"] >= (1.0 if config.recipe.reference else 0.7)


def test_a_label_of_one_half_teaches_nothing(new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path) -> None:
    undecided = [replace(row, p_chosen=0.5) for row in pair_rows]
    soft = next(train_dpo(CONFIG, undecided, new_trainee(), tmp_path / "soft", never))
    assert soft.metrics["grad_norm"] < 1e-6
    hard = CONFIG.model_copy(update={"labels": "hard"})
    assert next(train_dpo(hard, undecided, new_trainee(), tmp_path / "hard", never)).metrics["grad_norm"] > 1e-3


@pytest.mark.parametrize("micro_tokens", [1, 60, 150])
@pytest.mark.parametrize("log_ratios", ["sum", "mean"])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path, micro_tokens: int, log_ratios: str
) -> None:
    def measure(micro_tokens: int) -> tuple[dict[str, float], torch.Tensor]:
        config = CONFIG.model_copy(
            update={"batch_size": 20, "epochs": 1, "micro_tokens": micro_tokens, "log_ratios": log_ratios}
        )
        batches = plan_batches(config, items_of(pair_rows))
        trainee = new_trainee(start)
        reference = reference_logps(pair_rows, batches, trainee, tmp_path / str(micro_tokens), never)
        nudge(trainee)
        metrics = dpo_gradient(config, pair_rows, batches[0], trainee, reference).metrics
        grads = [p.grad for p in trainee.parameters().values() if p.grad is not None]
        return {k: v.item() for k, v in metrics.items()}, torch.cat([g.flatten() for g in grads])

    whole, whole_gradient = measure(100_000)
    split, split_gradient = measure(micro_tokens)
    assert split == pytest.approx(whole, rel=1e-4, abs=1e-6)
    assert abs(whole["rewards/margins"]) > 1e-4
    assert (split_gradient - whole_gradient).norm() < 1e-4 * whole_gradient.norm()


@pytest.mark.parametrize("log_ratios", ["sum", "mean"])
def test_the_loss_is_made_of_each_answers_own_log_ratio_and_length(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path, log_ratios: str
) -> None:
    """Each pair alone, without padding, and −p log σ(βΔ) − (1−p) log σ(−βΔ) written out."""
    config = CONFIG.model_copy(update={"batch_size": 20, "epochs": 1, "log_ratios": log_ratios})
    trainee = new_trainee(start)
    [batch] = plan_batches(config, items_of(pair_rows))
    reference = reference_logps(pair_rows, [batch], trainee, tmp_path / "run", never)
    nudge(trainee)
    losses = []
    for row in pair_rows:
        ratios = []
        for answer in (row.chosen, row.rejected):
            with torch.no_grad():
                ratio = (trainee.policy_logps([answer]).sums() - trainee.reference_logps([answer]).sums()).item()
            ratios.append(ratio / (len(answer.completion_ids) if log_ratios == "mean" else 1))
        scaled = 0.1 * (ratios[0] - ratios[1])
        losses.append(row.p_chosen * math.log1p(math.exp(-scaled)) + (1 - row.p_chosen) * math.log1p(math.exp(scaled)))
    loss = dpo_gradient(config, pair_rows, batch, trainee, reference).metrics["loss"].item()
    assert abs(loss - math.log(2)) > 1e-5
    assert loss == pytest.approx(sum(losses) / len(losses), abs=2e-6)


def test_only_the_policy_moves_and_never_its_frozen_start(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path
) -> None:
    trainee = new_trainee(start)
    everything = trainee._network.model.state_dict()
    frozen = {k: v.clone() for k, v in everything.items() if f".{trainee.policy}." not in k}
    assert any(f".{trainee.reference}." in name for name in frozen)
    policy = trainee.state()
    list(train_dpo(CONFIG, pair_rows, trainee, tmp_path / "dpo", never))
    now = trainee._network.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(not torch.equal(value, policy[name]) for name, value in trainee.state().items())


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_training_goes_on_to_the_very_same_folder(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path, stop_after: int
) -> None:
    straight = list(train_dpo(CONFIG, pair_rows, new_trainee(start), tmp_path / "straight", never))
    polls = count(-4)  # four while the reference is computed
    stopped = train_dpo(CONFIG, pair_rows, new_trainee(start), tmp_path / "stopped", lambda: next(polls) == stop_after)
    with pytest.raises(Interrupted, match=f"after update {stop_after} of 8"):
        list(stopped)
    resumed = train_dpo(CONFIG, pair_rows, new_trainee(start), tmp_path / "stopped", never)
    assert list(resumed) == straight[stop_after:]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_stop_during_the_reference_says_so_and_leaves_no_half_of_it(
    new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    polls = iter([False, False, True])
    with pytest.raises(Interrupted, match="reference log-probabilities, at batch 3 of 4"):
        next(train_dpo(CONFIG, pair_rows, new_trainee(), tmp_path / "run", lambda: next(polls)))
    assert not (tmp_path / "run").exists()


class CountingReference:
    """A real trainee that counts how often its reference is asked."""

    def __init__(self, trainee: Trainee, shift: float = 0.0) -> None:
        self.trainee, self.shift, self.asked = trainee, shift, 0
        self.parameters, self.state, self.policy_logps = trainee.parameters, trainee.state, trainee.policy_logps
        self.view, self.save, self.load_state = trainee.view, trainee.save, trainee.load_state

    def reference_logps(self, rows: list[TokenRow]) -> TokenLogps:
        self.asked += 1
        logps = self.trainee.reference_logps(rows)
        return TokenLogps(logps.logps_BT + self.shift * logps.mask_BT, logps.mask_BT)


def test_the_reference_is_computed_once_and_again_only_when_something_changed(
    new_trainee: NewTrainee, pair_rows: list[PairRow], start: Path, tmp_path: Path
) -> None:
    def asked(rows: list[PairRow], adapter: Path | None = None) -> int:
        trainee = CountingReference(new_trainee(adapter))
        training = train_dpo(CONFIG, rows, trainee, tmp_path / "run", never)  # type: ignore[arg-type]
        next(training)
        training.close()
        return trainee.asked

    assert asked(pair_rows) == 4
    assert asked(pair_rows) == 0
    assert asked(pair_rows[1:]) == 4
    assert asked(pair_rows[1:], start) == 4
    kept = tmp_path / "run" / "reference" / "logps.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert asked(pair_rows[1:], start) == 4
    assert asked(pair_rows[1:], start) == 0


def test_a_reference_that_is_not_the_untrained_policy_is_refused(
    new_trainee: NewTrainee, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    shifted = CountingReference(new_trainee(), shift=0.01)
    with pytest.raises(CaiError, match=r"pair pair-\d+: before the first update the policy is 0\.\d+ nats away"):
        next(train_dpo(CONFIG, pair_rows, shifted, tmp_path, never))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nats", "gap", "refused"), [(-3.0, 1e-4, 0), (-3.0, 3e-4, 1), (-2100.0, 5e-4, 0), (-2100.0, 3e-3, 1)]
)
def test_rounding_grows_with_the_answer(nats: float, gap: float, refused: bool) -> None:
    told = torch.tensor([-1.0, nats])
    pairs = PairLogps(told, told + torch.tensor([0.0, gap]), told, told)
    with pytest.raises(CaiError, match="pair second") if refused else nullcontext():
        preference._require_equal(pairs, ["first", "second"])


def flipped(row: PairRow) -> PairRow:
    return replace(row, chosen=row.rejected, rejected=row.chosen)


def margin(trainee: Trainee, rows: list[PairRow]) -> float:
    """How much likelier the chosen answers are, in nats, on average."""
    with torch.no_grad():
        chosen, rejected = (
            trainee.policy_logps(side).sums() for side in zip(*((r.chosen, r.rejected) for r in rows), strict=True)
        )
    return (chosen - rejected).mean().item()


def nudge(trainee: Trainee) -> None:
    """Take the policy a little away from its reference."""
    with torch.no_grad():
        for parameter in trainee.parameters().values():
            parameter.mul_(1.05)
