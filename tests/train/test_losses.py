"""The DPO family against numbers derived by hand, and the properties that a flipped sign would break."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cai.train.losses import (
    LOSSES,
    LossSettings,
    PairLogps,
    kto,
    negative_log_likelihood,
    preference_loss,
    reward_model,
)

LN2 = math.log(2.0)
DELTA = 10 * math.log(3)
"""With β = 0.1, βΔ = ln 3, so σ(βΔ) = 3/4 and σ(−βΔ) = 1/4."""
SMOOTHING = {"dpo": 0.0, "cdpo": 0.1, "robust": 0.1, "hinge": 0.0, "ipo": 0.0, "cpo": 0.1, "simpo": 0.0, "orpo": 0.0}
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
        # Without the reference Δ is smaller by 10, and βΔ is ln 3 − 1, so that e^−βΔ = e/3.
        ("cpo", 0.9 * math.log(1 + math.e / 3) + 0.1 * math.log(1 + 3 / math.e)),
        ("simpo", math.log(1 + math.e / 3)),
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


def averages(chosen: float, rejected: float) -> PairLogps:
    """Log-probabilities per token, and a reference that nobody should look at."""
    return PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected, -7.0, 3.0)))


def test_orpo_compares_odds() -> None:
    """p = 3/4 and 1/2 are odds of 3 and 1: −β log σ(ln 3) = −β ln 3/4."""
    loss = preference_loss("orpo", averages(math.log(0.75), math.log(0.5)), ONE, LossSettings(0.2)).item()
    assert loss == pytest.approx(0.2 * math.log(4 / 3), rel=1e-12)


@pytest.mark.parametrize("logp", [-1e-9, -0.5, -LN2, -0.7, -30.0, -200.0])
def test_odds_are_exact_wherever_a_probability_lies(logp: float) -> None:
    """Against an answer of p = 1/2, whose odds are 1: −log σ(log p − log(1 − p)) = −log p."""
    pairs = averages(logp, math.log(0.5))
    pairs.policy_chosen_B.requires_grad_()
    loss = preference_loss("orpo", pairs, ONE, LossSettings(1.0))
    assert loss.item() == pytest.approx(-logp, rel=1e-6, abs=1e-12)
    loss.backward()
    assert grad_of(pairs.policy_chosen_B) == pytest.approx(-1.0, rel=1e-5)


def test_simpo_wants_a_lead() -> None:
    """β = 2 and a lead of ln 2: −log σ(2 ln 2 − ln 2) = −log 2/3."""
    loss = preference_loss("simpo", averages(-1.0, -1.0 - LN2), ONE, LossSettings(2.0, margin=LN2)).item()
    assert loss == pytest.approx(math.log(3 / 2), rel=1e-12)


def test_a_reward_model_s_loss_by_hand() -> None:
    """r_w − r_l − m = ln 3: −0.7 ln 3/4 − 0.3 ln 1/4, and 0.01 (r_w + r_l)² with r_w + r_l = 5."""
    chosen, rejected = (torch.tensor([value], dtype=torch.float64) for value in (3.0 + LN2 / 2, 2.0 - LN2 / 2))
    margin = ONE + LN2 - math.log(3)
    loss = reward_model(chosen, rejected, 0.7 * ONE, margin, 0.01).item()
    assert loss == pytest.approx(0.7 * math.log(4 / 3) + 0.3 * math.log(4) + 0.25, rel=1e-12)


def test_kto_by_hand() -> None:
    """β(r − z) = ln 3: a desirable answer costs λ(1 − 3/4), an undesirable one λ(1 − 1/4), one in between its share."""
    ratio, drift = 12 * ONE, torch.tensor(12 - 10 * math.log(3), dtype=torch.float64)
    for p, expected in ((1.0, 1.5 / 4), (0.0, 0.8 * 3 / 4), (0.25, 0.25 * 1.5 / 4 + 0.75 * 0.8 * 3 / 4)):
        assert kto(ratio, p * ONE, drift, 0.1, (1.5, 0.8)).item() == pytest.approx(expected, rel=1e-12)


def test_the_drift_that_kto_subtracts_gets_no_gradient() -> None:
    ratio, drift = ONE.clone().requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    kto(ratio, ONE, drift, 0.1, (1.0, 1.0)).sum().backward()
    assert ratio.grad is not None and ratio.grad.item() < 0 and drift.grad is None


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
