"""The head's log-probabilities and their gradients against torch's own, form by form."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cai.models.local.head import LogitForm, token_logps

FORMS = [
    LogitForm(),
    LogitForm(scale=0.25),
    LogitForm(softcap=3.0),
    LogitForm(temperature=0.7),
    LogitForm(scale=2.0, softcap=1.5, temperature=1.3),
]


def plain(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, form: LogitForm) -> torch.Tensor:
    logits_NV = hidden_ND @ weight_VD.T * form.scale
    if form.softcap is not None:
        logits_NV = torch.tanh(logits_NV / form.softcap) * form.softcap
    return -cross_entropy(logits_NV / form.temperature, targets_N, reduction="none")


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("tile", [3, 100])
def test_values_and_gradients_are_those_of_a_softmax_over_all_logits(form: LogitForm, tile: int) -> None:
    generator = torch.Generator().manual_seed(5)
    hidden, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (10, 40))
    targets, given = torch.randint(40, (10,), generator=generator), torch.randn(10, generator=generator).double()
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    mine = token_logps(ours, weight, targets, form, tile)
    wanted = plain(theirs, weight, targets, form)
    mine.backward(given)
    wanted.backward(given)
    assert torch.allclose(mine, wanted, atol=1e-12)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(token_logps(hidden, weight, targets, form, tile), mine)


def test_a_certain_and_an_impossible_token_are_finite_and_pull_as_they_should() -> None:
    hidden = torch.tensor([[100.0, 0.0], [100.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    logps = token_logps(hidden, weight, torch.tensor([0, 2]), LogitForm(), 10)
    assert logps.tolist() == [0.0, -200.0]
    logps.sum().backward()
    assert torch.allclose(hidden.grad, torch.tensor([[0.0, 0.0], [-2.0, 0.0]]))


def test_half_precision_states_give_full_precision_log_probabilities() -> None:
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(6, 16, generator=generator).bfloat16().requires_grad_()
    weight, targets = torch.randn(50, 16, generator=generator).bfloat16(), torch.arange(6)
    logps = token_logps(hidden, weight, targets, LogitForm(), 4)
    assert logps.dtype == torch.float32 and hidden.dtype == torch.bfloat16
    wanted = plain(hidden.double(), weight.double(), targets, LogitForm())
    assert torch.allclose(logps.double(), wanted, atol=0.05)
    logps.sum().backward()
    assert hidden.grad.dtype == torch.bfloat16 and torch.isfinite(hidden.grad).all()


def test_no_position_has_no_log_probability() -> None:
    hidden = torch.zeros(0, 16, requires_grad=True)
    logps = token_logps(hidden, torch.randn(50, 16), torch.zeros(0, dtype=torch.long), LogitForm())
    logps.sum().backward()
    assert logps.shape == (0,) and hidden.grad.shape == (0, 16)
