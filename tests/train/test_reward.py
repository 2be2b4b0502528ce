"""The reward model on a real, small Llama: what it learns, what it says of itself, and going on after anything."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from cai.errors import InputError, Interrupted
from cai.models.local.scorer import Scorer
from cai.models.local.workbench import Workbench
from cai.train.batches import plan_batches
from cai.train.config import RewardConfig
from cai.train.preference import items_of
from cai.train.reference import PairRow
from cai.train.reward import reward_gradient, train_reward
from cai.train.reward_facts import FACTS, read_facts

CONFIG = RewardConfig(learning_rate=1e-2, epochs=3, batch_size=5, checkpoint_every=3, holdout=0.0)
NewScorer = Callable[..., Scorer]


def never() -> bool:
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def new_scorer(bench: Callable[..., Workbench]) -> Iterator[NewScorer]:
    """`new_scorer(dropout=0.1)`: equal arguments give equal scorers."""
    made: list[tuple[Workbench, Scorer]] = []

    def make(dropout: float = 0.0, quantization: str = "none") -> Scorer:
        workbench = bench(dropout, quantization)
        made.append((workbench, workbench.scoring_trainee(None, seed=7)))
        return made[-1][1]

    yield make
    for workbench, scorer in made:
        workbench.release(scorer)


def flipped(row: PairRow) -> PairRow:
    return replace(row, chosen=row.rejected, rejected=row.chosen)


def lead(scorer: Scorer, rows: list[PairRow]) -> float:
    """How much higher chosen answers score, on average."""
    with torch.no_grad():
        chosen, rejected = (scorer.scores(side) for side in ([r.chosen for r in rows], [r.rejected for r in rows]))
    return (chosen - rejected).mean().item()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_scores_learn_which_answer_is_chosen_and_flipped_pairs_the_opposite(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path, quantization: str
) -> None:
    for name, rows, sign in (("straight", pair_rows, 1), ("flipped", [flipped(row) for row in pair_rows], -1)):
        scorer = new_scorer(quantization=quantization)
        before = lead(scorer, pair_rows)
        steps = list(train_reward(CONFIG, rows, scorer, tmp_path / name, never))
        assert sign * (lead(scorer, pair_rows) - before) > 0.5
        assert steps[-1].metrics["rewards/accuracies"] > 0.8


def test_the_first_loss_is_near_ln_2_and_the_head_takes_part(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    scorer = new_scorer()
    before = scorer.state()
    steps = list(train_reward(CONFIG, pair_rows, scorer, tmp_path, never))
    assert steps[0].metrics["loss"] == pytest.approx(math.log(2), abs=0.5)
    assert all(not torch.equal(value, before[name]) for name, value in scorer.state().items())
    assert "score.weight" in before


@pytest.mark.parametrize("micro_tokens", [1, 60, 150])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(
    new_scorer: NewScorer, pair_rows: list[PairRow], micro_tokens: int
) -> None:
    def measure(micro_tokens: int) -> tuple[float, torch.Tensor]:
        config = CONFIG.model_copy(update={"batch_size": 20, "epochs": 1, "micro_tokens": micro_tokens})
        scorer = new_scorer()
        [batch] = plan_batches(config, items_of(pair_rows))
        loss = reward_gradient(config, pair_rows, batch, scorer).metrics["loss"].item()
        return loss, torch.cat([p.grad.flatten() for p in scorer.parameters().values()])

    (whole, whole_gradient), (split, split_gradient) = measure(100_000), measure(micro_tokens)
    assert split == pytest.approx(whole, rel=1e-5)
    assert (split_gradient - whole_gradient).norm() < 1e-5 * whole_gradient.norm()


def test_layers_computed_again_give_the_same_gradient(new_scorer: NewScorer, pair_rows: list[PairRow]) -> None:
    gradients = []
    for again in (False, True):
        config = CONFIG.model_copy(update={"checkpointing": again})
        scorer = new_scorer(dropout=0.3)
        reward_gradient(config, pair_rows, plan_batches(config, items_of(pair_rows))[0], scorer)
        gradients.append({name: p.grad.clone() for name, p in scorer.parameters().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert gradients[0]["score.weight"].abs().sum() > 0


def test_a_margin_and_centring_pull_scores_apart_and_together(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    """A margin of 3 asks for a wider lead; centring holds the sum of a pair's scores near zero."""
    plain, wide, centred = new_scorer(), new_scorer(), new_scorer()
    config = CONFIG.model_copy(update={"centring": 0.0})
    list(train_reward(config, pair_rows, plain, tmp_path / "plain", never))
    list(train_reward(config, [replace(r, margin=3.0) for r in pair_rows], wide, tmp_path / "wide", never))
    strong = CONFIG.model_copy(update={"centring": 1.0})
    list(train_reward(strong, pair_rows, centred, tmp_path / "centred", never))
    assert lead(wide, pair_rows) > lead(plain, pair_rows) + 0.5
    sums = [
        scorer.scores([a for r in pair_rows for a in (r.chosen, r.rejected)]).sum().abs() for scorer in (plain, centred)
    ]
    assert sums[1] < sums[0]


def test_held_out_pairs_are_measured_and_never_trained_on(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"holdout": 0.25, "probe_every": 4})
    steps = list(train_reward(config, pair_rows, new_scorer(), tmp_path, never))
    probed = [step.number for step in steps if "eval/rewards/accuracies" in step.metrics]
    assert probed == [4, 8, steps[-1].total] or probed[-1] == steps[-1].total
    facts = read_facts(tmp_path / "adapter")
    assert facts is not None and facts.held_out == 5
    assert facts.accuracy == pytest.approx(steps[-1].metrics["eval/rewards/accuracies"])
    assert 0 <= facts.calibration_error <= 1
    assert steps[0].total == 3 * 3


def test_the_zero_that_is_kept_is_the_mean_score_of_what_was_trained_on(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path
) -> None:
    scorer = new_scorer()
    list(train_reward(CONFIG, pair_rows, scorer, tmp_path, never))
    with torch.no_grad():
        scores = scorer.scores([answer for row in pair_rows for answer in (row.chosen, row.rejected)])
    facts = read_facts(tmp_path / "adapter")
    assert facts.mean == pytest.approx(scores.mean().item(), abs=1e-5)
    assert facts.deviation == pytest.approx(scores.std(correction=0).item(), abs=1e-5)
    (tmp_path / "adapter" / FACTS).unlink()
    assert read_facts(tmp_path / "adapter") is None


@pytest.mark.parametrize("stop_after", range(1, 12))
def test_a_training_stopped_at_any_update_ends_in_the_very_same_folder(
    new_scorer: NewScorer, pair_rows: list[PairRow], tmp_path: Path, stop_after: int
) -> None:
    """Dropout on, 20 pairs in batches of 5 over three epochs; held-out pairs are probed on the way."""
    config = CONFIG.model_copy(update={"holdout": 0.1, "probe_every": 5})

    def train(name: str, stop: Callable[[], bool]) -> Iterator[object]:
        return train_reward(config, pair_rows, new_scorer(dropout=0.3), tmp_path / name, stop)

    straight = list(train("straight", never))
    polls = count()
    with pytest.raises(Interrupted, match=f"after update {stop_after} of 12"):
        list(train("stopped", lambda: next(polls) == stop_after))
    assert list(train("stopped", never)) == straight[stop_after:]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_no_pairs_are_refused(new_scorer: NewScorer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row to train on"):
        next(train_reward(CONFIG, [], new_scorer(), tmp_path, never))
