"""The DPO family against numbers derived by hand, and the properties that a flipped sign would break."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cai.train.losses import LOSSES, LossSettings, PairLogps, negative_log_likelihood, preference_loss

LN2 = math.log(2.0)
DELTA = 10 * math.log(3)
"""With β = 0.1, βΔ = ln 3, so σ(βΔ) = 3/4 and σ(−βΔ) = 1/4."""
SMOOTHING = {"dpo": 0.0, "cdpo": 0.1, "robust": 0.1, "hinge": 0.0, "ipo": 0.0}
ONE = torch.ones(1, dtype=torch.float64)


def pairs_with(delta: float) -> PairLogps:
    """Δ split over both answers: the chosen one rises by 3/4 of it, the rejected one falls by the rest."""
    columns = (-50.0 + 0.75 * delta, -40.0 - 0.25 * delta, -50.0, -40.0)
    return PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in columns))


def loss_of(name: str, delta: float, p: float = 1.0, beta: float = 0.1) -> float:
    settings = LossSettings(beta, SMOOTHING[name])
    return preference_loss(name, pairs_with(delta), p * ONE, settings).item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # −ln 3/4
        ("dpo", math.log(4 / 3)),
        # −0.9 ln 3/4 − 0.1 ln 1/4
        ("cdpo", 0.9 * math.log(4 / 3) + 0.1 * math.log(4)),
        # (−0.9 ln 3/4 + 0.1 ln 1/4) / 0.8
        ("robust", (0.9 * math.log(4 / 3) - 0.1 * math.log(4)) / 0.8),
        # βΔ = ln 3 = 1.0986 is beyond the margin of 1
        ("hinge", 0.0),
        # (10 ln 3 − 5)²
        ("ipo", (10 * math.log(3) - 5) ** 2),
    ],
)
def test_each_loss_equals_its_equation_by_hand(name: str, expected: float) -> None:
    assert loss_of(name, DELTA) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # With βΔ = −ln 3 both sigmoids change places.
        ("dpo", math.log(4)),
        ("cdpo", 0.9 * math.log(4) + 0.1 * math.log(4 / 3)),
        ("robust", (0.9 * math.log(4) - 0.1 * math.log(4 / 3)) / 0.8),
        ("hinge", 1 + math.log(3)),
        ("ipo", (10 * math.log(3) + 5) ** 2),
    ],
)
def test_each_loss_of_a_pair_ranked_wrongly_equals_its_equation_by_hand(name: str, expected: float) -> None:
    assert loss_of(name, -DELTA) == pytest.approx(expected, rel=1e-12)


def test_a_soft_label_weighs_both_directions() -> None:
    """−0.7 ln 3/4 − 0.3 ln 1/4"""
    assert loss_of("dpo", DELTA, p=0.7) == pytest.approx(0.7 * math.log(4 / 3) + 0.3 * math.log(4), rel=1e-12)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust"])
@given(p=st.floats(0, 1))
def test_a_logistic_loss_is_ln_2_at_the_start_whatever_the_label(name: str, p: float) -> None:
    assert loss_of(name, 0.0, p) == pytest.approx(LN2, rel=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(delta=st.floats(-30, 30), p=st.floats(0, 1))
def test_exchanging_the_answers_is_exchanging_the_label(name: str, delta: float, p: float) -> None:
    assert pairs_with(delta).swapped().delta.item() == pytest.approx(-delta, abs=1e-9)
    settings = LossSettings(0.1, SMOOTHING[name])
    swapped = preference_loss(name, pairs_with(delta).swapped(), (1 - p) * ONE, settings).item()
    assert swapped == pytest.approx(loss_of(name, delta, p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_step_down_the_gradient_raises_the_chosen_answer_and_lowers_the_rejected_one(name: str) -> None:
    chosen, rejected = gradients(name, p=1.0)
    assert chosen < 0 < rejected
    assert chosen == pytest.approx(-rejected, rel=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_label_of_one_half_has_no_gradient_at_the_start(name: str) -> None:
    chosen, rejected = gradients(name, p=0.5)
    assert abs(chosen) < 1e-12
    assert abs(rejected) < 1e-12
    assert abs(gradients(name, p=0.6)[0]) > 1e-3


def test_the_gradient_of_dpo_at_the_start_is_half_of_beta() -> None:
    """d/dΔ −log σ(βΔ) = −β σ(−βΔ) = −β/2 at Δ = 0; a soft label p scales it by 2p − 1."""
    assert gradients("dpo", p=1.0)[0] == pytest.approx(-0.05, rel=1e-12)
    assert gradients("dpo", p=0.8)[0] == pytest.approx(-0.05 * 0.6, rel=1e-12)


def test_smoothing_on_a_hard_label_is_the_same_as_a_softer_label() -> None:
    settings = LossSettings(0.1, 0.2)
    smoothed = preference_loss("cdpo", pairs_with(DELTA), ONE, settings).item()
    assert smoothed == pytest.approx(loss_of("dpo", DELTA, p=0.8), rel=1e-12)


def test_robust_dpo_is_unbiased_under_flips_of_its_own_rate() -> None:
    """Chowdhury et al. 2024: the expectation over labels flipped at rate ε is the clean DPO loss."""
    flipped = preference_loss("robust", pairs_with(DELTA), 0.9 * ONE, LossSettings(0.1, 0.1)).item()
    assert flipped == pytest.approx(loss_of("dpo", DELTA), rel=1e-12)


def test_a_loss_without_smoothing_refuses_it() -> None:
    with pytest.raises(AssertionError):
        preference_loss("dpo", pairs_with(DELTA), ONE, LossSettings(0.1, 0.1))


def test_length_averaged_ipo_divides_each_log_ratio_by_its_own_length() -> None:
    """Ratios 6 over 3 tokens and −4 over 8: Δ = 2 + 0.5 = 2.5, (2.5 − 5)² = 6.25; summed: (10 − 5)² = 25."""
    pairs = PairLogps(*(torch.tensor([v]) for v in (-4.0, -24.0, -10.0, -20.0)))
    averaged = pairs.averaged(torch.tensor([3]), torch.tensor([8]))
    assert preference_loss("ipo", averaged, torch.ones(1), LossSettings(0.1)).item() == pytest.approx(6.25)
    assert preference_loss("ipo", pairs, torch.ones(1), LossSettings(0.1)).item() == pytest.approx(25.0)


def test_likelihood_counts_unmasked_tokens_only() -> None:
    logps_BT = torch.tensor([[-1.0, -2.0, -4.0], [-8.0, -16.0, -math.inf]], requires_grad=True)
    mask_BT = torch.tensor([[False, True, True], [True, False, False]])
    nll_B = negative_log_likelihood(logps_BT, mask_BT)
    assert nll_B.tolist() == [6.0, 8.0]
    nll_B.sum().backward()
    assert logps_BT.grad is not None
    assert logps_BT.grad.tolist() == [[0.0, -1.0, -1.0], [-1.0, 0.0, 0.0]]


def gradients(name: str, p: float) -> tuple[float, float]:
    """dL/dlogπ of the chosen and of the rejected answer, at Δ = 0."""
    leaves = [torch.tensor([-3.0], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    fixed = torch.tensor([-3.0], dtype=torch.float64)
    pairs = PairLogps(leaves[0], leaves[1], fixed, fixed)
    preference_loss(name, pairs, p * ONE, LossSettings(0.1, SMOOTHING[name])).sum().backward()
    return grad_of(leaves[0]), grad_of(leaves[1])


def grad_of(leaf: Tensor) -> float:
    assert leaf.grad is not None
    return leaf.grad.item()
