"""Log-probabilities against the model's own full logits, row by row."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import head, logprobs
from cai.models.local import network as network_module
from cai.models.local.logprobs import TokenRow, batch_plan, completion_logps
from cai.models.local.network import Network

KINDS = ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3", "Cohere", "Granite"]
ROWS = [
    TokenRow((5, 6, 7), (20, 21)),
    TokenRow((9,) * 20, (30, 31, 32, 33, 34)),
    TokenRow((40,), (41,)),
    TokenRow((50, 51, 52, 53), (54, 55, 2)),
]


def load(folder) -> Network:
    return Network(AutoModelForCausalLM.from_pretrained(folder).eval(), str(folder))


def by_hand(network: Network, row: TokenRow) -> torch.Tensor:
    """log softmax of the model's own logits for this row alone, at the positions before each completion token."""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    with torch.no_grad():
        logps = network.model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    at = range(len(row.prompt_ids) - 1, ids.shape[1] - 1)
    return torch.stack([logps[t, ids[0, t + 1]] for t in at])


@pytest.mark.parametrize("kind", KINDS)
def test_padded_log_probabilities_equal_those_of_each_row_alone(make_model, kind):
    network = load(make_model(kind))
    with torch.no_grad():
        found = completion_logps(network, ROWS)
    assert found.logps_BT.dtype == torch.float32
    assert found.lengths().tolist() == [2, 5, 1, 3]
    for i, row in enumerate(ROWS):
        expected = by_hand(network, row)
        assert torch.allclose(found.logps_BT[i, : len(expected)].double(), expected, atol=2e-5)
        assert not found.logps_BT[i, len(expected) :].any() and not found.mask_BT[i, len(expected) :].any()
        assert found.sums()[i].item() == pytest.approx(expected.sum().item(), abs=1e-4)


@pytest.mark.parametrize("frozen_head", [True, False])
def test_small_batches_and_tiles_change_neither_values_nor_gradients(make_model, monkeypatch, frozen_head):
    network = load(make_model())
    network.model.requires_grad_(not frozen_head)
    weight = network.model.model.layers[0].self_attn.q_proj.weight.requires_grad_(True)

    def value_and_gradient():
        weight.grad = None
        found = completion_logps(network, ROWS)
        found.sums().dot(torch.tensor([1.0, -2.0, 0.5, 3.0])).backward()
        return found.logps_BT.detach(), weight.grad.clone()

    whole = value_and_gradient()
    monkeypatch.setattr(network_module, "MAX_TILE_LOGITS", {"cpu": 2 * network.vocab_size})
    monkeypatch.setattr(head, "ROOM", {"cpu": 100})
    tiled = value_and_gradient()
    monkeypatch.setattr(logprobs, "MAX_BATCH_TOKENS", 10)
    cut = value_and_gradient()
    assert weight.grad.abs().max() > 1e-3
    for other in (tiled, cut):
        assert torch.allclose(whole[0], other[0], atol=1e-5) and torch.allclose(whole[1], other[1], atol=1e-4)


def test_masked_positions_get_no_gradient(make_model):
    network = load(make_model())
    weight = network.model.model.embed_tokens.weight.requires_grad_(True)
    found = completion_logps(network, [TokenRow((5, 6), (7, 8)), TokenRow((9, 10), (11, 12, 13, 14))])
    found.logps_BT[0, 2:].sum().backward()
    assert weight.grad is None or not weight.grad.any()


def test_groups_hold_every_row_once_and_stay_within_the_token_limit():
    lengths = [7, 300, 2, 40, 40, 1000, 3]
    groups = batch_plan(lengths, 500)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert all(max(lengths[i] for i in group) * len(group) <= 500 or len(group) == 1 for group in groups)
    assert groups == [[5], [1], [3, 4, 0, 6, 2]]
