"""A last layer computed where it is asked, with an adapter whose unread parts idle: as if it were computed whole."""

import pytest
import torch

from cai.models.local.logprobs import TokenRow
from cai.models.local.spec import LoraSpec
from tests.models.local.conftest import OWN

ROWS = [TokenRow(tuple(range(10, 30)), tuple(range(40 + i, 60 + i))) for i in range(3)]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kind", OWN)
def test_values_and_gradients_are_those_of_the_whole_layer(
    open_bench, make_model, kind: str, quantization: str
) -> None:
    bench = open_bench(quantization, make_model(kind), lora=LoraSpec(rank=4))
    trainee, network = bench.trainee(None, 1), bench.network
    for number, parameter in enumerate(trainee.parameters().values()):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    assert network.narrows
    told = []
    for narrow in (True, False):
        network.narrows = narrow
        logps = trainee.policy_logps(ROWS).logps_BT
        logps.sum().backward()
        told.append([logps.detach(), *(p.grad for p in trainee.parameters().values())])
        for parameter in trainee.parameters().values():
            parameter.grad = None
    for own, whole in zip(*told, strict=True):
        scale = whole.abs().max()
        assert scale > 0
        assert (own - whole).abs().max() <= 2e-4 * scale
