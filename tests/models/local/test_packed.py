"""Rows laid end to end against each row alone: values and gradients, whatever they share and whatever sees what."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import packed
from cai.models.local.layout import TokenRow, families, lay_out, packed_length, pass_plan
from cai.models.local.logprobs import completion_logps
from cai.models.local.network import Network
from cai.models.local.scoring import completion_values, row_scores

KINDS = ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3", "Cohere", "Granite"]
LONG = tuple(range(10, 34))
ROWS = [
    TokenRow(LONG, (40, 41, 42, 43, 44)),
    TokenRow((9, 8), (30, 31)),
    TokenRow(LONG, (50,)),
    TokenRow(LONG, tuple(range(60, 72))),
    TokenRow((7,), (8,)),
    TokenRow((9, 8), (30, 31)),
]
ROUNDING = 1e-5
"""In fp64; transformers' norms and rotations round to fp32 all the same."""
WEIGHTS = (1.0, -2.0, 0.5, 3.0, -1.0, 0.7)


def load(folder) -> Network:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    model.requires_grad_(False)
    network = Network(model, str(folder))
    assert network.packs and network.narrows
    return network


def measured(network: Network, read) -> list[torch.Tensor]:
    """What is read, and the gradients of every projection of the keys and of the embeddings."""
    wanted = [p for name, p in network.model.named_parameters() if "k_proj" in name or "qkv" in name]
    wanted += [network.model.get_input_embeddings().weight] if not network.model.config.tie_word_embeddings else []
    for parameter in wanted:
        parameter.requires_grad_(True)
        parameter.grad = None
    value = read(network)
    value.backward()
    found = [value.detach(), *[parameter.grad.clone() for parameter in wanted]]
    assert all(each.abs().max() > 0 for each in found)
    return found


def relative_error(mine: torch.Tensor, plain: torch.Tensor) -> float:
    return ((mine - plain).norm() / plain.norm()).item()


def weighed(network: Network) -> torch.Tensor:
    logps = completion_logps(network, ROWS)
    return (logps.sums() * torch.tensor(WEIGHTS, dtype=torch.float64)).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waste", [0, 1 << 14], ids=["each text alone", "texts in groups"])
def test_packed_rows_have_the_values_and_gradients_of_padded_ones(make_model, monkeypatch, kind, waste):
    monkeypatch.setitem(packed.MAX_WASTE, "cpu", waste)
    network = load(make_model(kind))
    ours = measured(network, weighed)
    network.packs = False
    theirs = measured(network, weighed)
    for mine, plain in zip(ours, theirs, strict=True):
        assert relative_error(mine, plain) < ROUNDING


def test_scores_and_values_are_the_same_packed_and_padded(make_model):
    network = load(make_model())
    head_1D = torch.linspace(-1, 1, 64, dtype=torch.float64)[None]

    def read(network: Network) -> torch.Tensor:
        values = completion_values(network, head_1D, ROWS)
        assert torch.equal(values.mask_BT.sum(1), torch.tensor([len(row.completion_ids) for row in ROWS]))
        scores = row_scores(network, head_1D, ROWS)
        assert relative_error(scores.detach(), values.ends_B.detach()) < ROUNDING
        return (values.values_BT.sum(1) + 3 * scores) @ torch.tensor(WEIGHTS, dtype=torch.float64)

    ours = measured(network, read)
    network.packs = False
    for mine, plain in zip(ours, measured(network, read), strict=True):
        assert relative_error(mine, plain) < ROUNDING


def test_what_one_row_says_does_not_hang_on_its_neighbours(make_model):
    network = load(make_model("Mistral"))
    with torch.no_grad():
        together = completion_logps(network, ROWS).sums()
        for number, row in enumerate(ROWS):
            assert torch.allclose(completion_logps(network, [row]).sums()[0], together[number], atol=1e-4)


def test_a_shared_prompt_is_laid_out_once_and_every_row_ends_after_its_own_tokens():
    layout = lay_out(ROWS, "states")
    assert families(ROWS) == [[0, 2, 3], [1, 5], [4]]
    assert len(layout.ids) == packed_length(ROWS) == 24 + 5 + 1 + 12 + 2 + 2 + 2 + 2
    for row, told in zip(ROWS, layout.told, strict=True):
        assert tuple(layout.ids[layout.asked[at]] for at in told) == (row.prompt_ids[-1], *row.completion_ids)
        first = len(row.prompt_ids) - 1
        assert [layout.positions[layout.asked[at]] for at in told] == list(range(first, first + len(told)))
    assert len(lay_out(ROWS, "tokens").ids) == packed_length(ROWS) - len(ROWS)


@pytest.mark.parametrize(("told", "count"), [("tokens", 20), ("states", 26), ("end", 6)])
def test_what_is_asked_of_rows_is_looked_out_of_once(told, count):
    layout = lay_out(ROWS, told)
    assert len(layout.asked) == count == sum(entry.queries for entry in layout.last)
    assert {place for own in layout.told for place in own} == set(range(count))
    ends = [layout.ids[layout.asked[own[-1]]] for own in layout.told]
    before = [(row.prompt_ids + row.completion_ids)[-2] for row in ROWS]
    assert ends == (before if told == "tokens" else [row.completion_ids[-1] for row in ROWS])


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_last_layer_changes_nothing_but_the_work(make_model, kind):
    network = load(make_model(kind))
    seen = []
    network.model.base_model.layers[-1].mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    head_1D = torch.linspace(-1, 1, 64, dtype=torch.float64)[None]

    def read(network: Network) -> torch.Tensor:
        return weighed(network) + row_scores(network, head_1D, ROWS) @ torch.tensor(WEIGHTS, dtype=torch.float64)

    ours = measured(network, read)
    assert seen == [len(lay_out(ROWS, "tokens").asked), len(ROWS)]
    network.narrows = False
    theirs = measured(network, read)
    assert seen[2:] == [len(lay_out(ROWS, "tokens").ids), packed_length(ROWS)]
    for mine, plain in zip(ours, theirs, strict=True):
        assert relative_error(mine, plain) < ROUNDING


def test_passes_hold_every_row_once_and_no_more_positions_than_allowed():
    for most in (1, 10, 30, 45, 1000):
        passes = pass_plan(ROWS, most)
        assert sorted(row for each in passes for row in each) == list(range(len(ROWS)))
        for each in passes:
            assert packed_length([ROWS[row] for row in each]) <= most or len(each) == 1
    assert pass_plan(ROWS, 1000) == [[0, 2, 3, 1, 5, 4]]
