"""Layers that are computed again in the backward pass: the same loss, the same gradient, and far less kept."""

import pytest
import torch

from cai.models.local.logprobs import TokenRow
from cai.models.local.spec import LoraSpec

ROWS = [TokenRow(tuple(range(10, 30)), tuple(range(40 + i, 60 + i))) for i in range(3)]


def gradients(trainee, **how) -> dict[str, torch.Tensor]:
    """Of the summed log-probability; the backward pass runs when the adapter is off again."""
    logps = trainee.policy_logps(ROWS, **how)
    logps.sums().sum().backward()
    found = {name: p.grad.clone() for name, p in trainee.parameters().items()}
    for parameter in trainee.parameters().values():
        parameter.grad = None
    return {"loss": logps.sums().detach(), **found}


def alive(bench, start: int) -> object:
    trainee = bench.trainee(None, start)
    for parameter in trainee.parameters().values():
        parameter.data += 0.02
    return trainee


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kind", ["Llama", "Gemma2"])
@pytest.mark.parametrize("dropout_seed", [None, 5])
def test_gradients_are_the_same_with_layers_computed_again(
    open_bench, make_model, kind: str, quantization: str, dropout_seed: int | None
) -> None:
    bench = open_bench(quantization, make_model(kind), lora=LoraSpec(rank=4, dropout=0.3))
    trainee = alive(bench, 1)
    kept = gradients(trainee, dropout_seed=dropout_seed)
    again = gradients(trainee, dropout_seed=dropout_seed, checkpointing=True)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.equal(gradient, again[name]), name
        assert gradient.abs().sum() > 0, name


def test_another_adapter_may_speak_between_the_passes_and_stays_what_it_is(open_bench) -> None:
    bench = open_bench("none", lora=LoraSpec(rank=4))
    trainee, other = alive(bench, 1), alive(bench, 2)
    plain = gradients(trainee)
    logps = trainee.policy_logps(ROWS, checkpointing=True)
    before = other.policy_logps(ROWS).sums().detach()
    logps.sums().sum().backward()
    for name, parameter in trainee.parameters().items():
        assert torch.equal(parameter.grad, plain[name]), name
    assert torch.equal(other.policy_logps(ROWS).sums().detach(), before)
    assert not any(module.training for module in bench.network.model.modules())


def test_far_less_is_kept(open_bench, make_model) -> None:
    """Between one layer more and one less: its input of 64 fp32 numbers for each of the 20 + 3 * 19 tokens that are
    read, and no more."""
    kept = []
    for layers in (2, 4):
        bench = open_bench("none", make_model(num_hidden_layers=layers), lora=LoraSpec(rank=4))
        kept.append(kept_bytes(bench.trainee(None, 1)))
    assert kept[1] - kept[0] == 2 * 77 * 64 * 4


def kept_bytes(trainee) -> int:
    weights = {p.untyped_storage().data_ptr() for p in trainee._network.model.parameters()}
    found: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.policy_logps(ROWS, checkpointing=True)
    return sum(found.values())
