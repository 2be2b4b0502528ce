"""Architectures that the step loop does not know: found out at loading, and answered by transformers' generate."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, Lfm2ForCausalLM

from cai.models.local.choices import choice_logps
from cai.models.local.decode import DecodeRow, decode
from cai.models.local.fallback import choice_logps_alone, decode_by_generate
from cai.models.local.network import Network
from cai.models.protocol import Sampling


def never(i: int, ids: Sequence[int]) -> bool:
    return False


def rows(count: int = 7) -> list[DecodeRow]:
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=9)
    return [DecodeRow(tuple(range(10 + n, 14 + 3 * n)), sampling, n, logps=True) for n in range(count)]


def network_of(folder: Path) -> Network:
    return Network(AutoModelForCausalLM.from_pretrained(folder).eval().double(), str(folder))


def test_both_ways_of_decoding_draw_the_same_tokens(make_model):
    network = network_of(make_model("Llama"))
    ours, theirs = decode(network, rows(), never), decode_by_generate(network, rows(), never, max_rows=3)
    assert [d.ids for d in ours] == [d.ids for d in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.logps == pytest.approx(b.logps, abs=1e-4)


def test_a_stop_ends_only_its_own_row(make_model):
    network = network_of(make_model("Llama"))
    stop = decode(network, rows(1), never)[0].ids[3]
    found = decode_by_generate(network, rows(), lambda i, ids: i == 0 and ids[-1] == stop)
    assert found[0].finish == "stop" and found[0].ids[-1] == stop
    assert [len(d.ids) for d in found[1:]] == [9] * 6


def test_both_ways_of_weighing_give_the_same_sums(make_model):
    network = network_of(make_model("Gemma2"))
    asked = [((5, 6, 7, n), [(20,), (21, 22)]) for n in range(4)]
    for ours, theirs in zip(choice_logps(network, asked), choice_logps_alone(network, asked), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_model_with_convolutions_is_decoded_by_generate():
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.3,
    )
    network = Network(Lfm2ForCausalLM(config).eval(), "a model with convolutions")
    assert not network.decodes
    together = decode_by_generate(network, rows(), never)
    assert [d.ids for d in together] == [decode_by_generate(network, [row], never)[0].ids for row in rows()]


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3", "Cohere", "Granite"])
def test_dense_and_sliding_models_take_the_step_loop(make_model, kind):
    assert network_of(make_model(kind)).decodes
