"""What policy and value lose, by hand, and that masks, clips and splits do what they say."""

import math

import pytest
import torch
from torch import Tensor

from cai.train.policy_losses import Aggregate, Clip, Totals, clipped, k3, stops, token_weights, value_loss

AGGREGATES: tuple[Aggregate, ...] = ("token", "rollout", "answer", "constant")


def logs(*ratios: float) -> Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


def test_the_clipped_objective_by_hand() -> None:
    """ε = 0.2. What is good may gain up to 1.2, what is bad may lose down to 0.8; the other sides count in full."""
    ratios, advantages = logs(1.5, 0.5, 1.5, 0.5, 1.1), torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    expected = torch.tensor([-1.2, -0.5, 1.5, 0.8, -2.2], dtype=torch.float64)
    torch.testing.assert_close(clipped(ratios, advantages, Clip(0.2, 0.2)), expected)
    assert stops(ratios, advantages, Clip(0.2, 0.2)).tolist() == [True, False, False, True, False]
    assert clipped(ratios[:1], advantages[:1], Clip(0.2, 0.6)).item() == pytest.approx(-1.5)


def test_gradients_stop_just_where_it_is_said() -> None:
    ratios = logs(1.5, 0.5, 1.5, 0.5, 1.1).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    clipped(ratios, advantages, Clip()).sum().backward()
    assert ratios.grad is not None
    stopped = stops(ratios.detach(), advantages, Clip())
    # d(−ρA)/d ln ρ = −ρA
    expected = torch.where(stopped, 0.0, -ratios.detach().exp() * advantages)
    torch.testing.assert_close(ratios.grad, expected)


def test_an_answers_ratio_is_the_product_of_its_tokens() -> None:
    """1.2 · 1.1 = 1.32 is beyond 1.2, though each token on its own would not be clipped twice."""
    summed = logs(1.2, 1.1).sum(dim=0, keepdim=True)
    assert clipped(summed, torch.ones(1, dtype=torch.float64), Clip()).item() == pytest.approx(-1.2)


def test_k3_by_hand() -> None:
    """d = ln ½: ½ + ln 2 − 1; with a ratio of 3, three times as much. Equal policies are no distance apart."""
    new, old, reference = logs(0.6), logs(0.2), logs(0.3)
    plain = 0.5 + math.log(2) - 1
    assert k3(new, old, reference, corrected=False).item() == pytest.approx(plain)
    assert k3(new, old, reference, corrected=True).item() == pytest.approx(3 * plain)
    assert k3(new, old, new, corrected=True).item() == 0


def test_the_corrected_estimate_has_the_gradient_of_the_divergence() -> None:
    """Expected over the whole vocabulary of the sampling policy, which is not the policy any more."""
    generator = torch.Generator().manual_seed(1)
    scores, old, reference = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    scores.requires_grad_()
    new, old, reference = scores.log_softmax(0), old.log_softmax(0), reference.log_softmax(0)
    [expected] = torch.autograd.grad((new.exp() * (new - reference)).sum(), scores, retain_graph=True)
    of = {
        corrected: torch.autograd.grad(
            (old.exp() * k3(new, old, reference, corrected=corrected)).sum(), scores, retain_graph=True
        )[0]
        for corrected in (True, False)
    }
    torch.testing.assert_close(of[True], expected)
    assert (of[False] - expected).norm() > 0.1 * expected.norm()


def test_the_value_loss_by_hand() -> None:
    """Clip 0.2, old value 1, return 2. V = 1.1: ½·0.81; V = 1.9 counts as 1.2: ½·0.64, not ½·0.01; V = 3.5: ½·2.25."""
    values = torch.tensor([1.1, 1.9, 3.5], dtype=torch.float64, requires_grad=True)
    losses = value_loss(values, torch.ones(3), 2 * torch.ones(3), 0.2)
    torch.testing.assert_close(losses, torch.tensor([0.405, 0.32, 1.125], dtype=torch.float64))
    losses.sum().backward()
    assert values.grad is not None
    # V − R where it counts itself; nothing where the old value and its clip decide.
    torch.testing.assert_close(values.grad, torch.tensor([-0.9, 0.0, 1.5], dtype=torch.float64))


MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])
TOTALS = Totals(answers=2, tokens=4, round_tokens=5.0, longest=8)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("token", (1 / 4, 1 / 4)),
        ("rollout", (1 / 5, 1 / 5)),
        # Half of the update for each answer, a third of that for each of the first one's tokens.
        ("answer", (1 / 6, 1 / 2)),
        ("constant", (1 / 16, 1 / 16)),
    ],
)
def test_what_each_token_weighs(aggregate: Aggregate, expected: tuple[float, float]) -> None:
    first, second = expected
    weights = token_weights(aggregate, MASK, TOTALS)
    torch.testing.assert_close(weights, torch.tensor([[first, first, first, 0.0], [second, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_an_update_split_into_passes_weighs_the_same_and_padding_weighs_nothing(aggregate: Aggregate) -> None:
    whole = token_weights(aggregate, MASK, TOTALS)
    parts = [token_weights(aggregate, MASK[:1, :3], TOTALS), token_weights(aggregate, MASK[1:, :1], TOTALS)]
    assert torch.equal(whole[0, :3], parts[0][0]) and torch.equal(whole[1, :1], parts[1][0])
    losses = torch.randn(2, 4, requires_grad=True)
    (whole * losses).sum().backward()
    assert losses.grad is not None
    assert not losses.grad[~MASK].any() and losses.grad[MASK].all()
