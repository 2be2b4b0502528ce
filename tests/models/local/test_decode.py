"""Our step loop against transformers' generate, and rows against their batch mates."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local.decode import DecodeRow, Decoding, batches, decode
from cai.models.local.network import Network
from cai.models.protocol import Sampling

GREEDY = Sampling(temperature=0, max_new_tokens=24)


def never(i: int, ids: Sequence[int]) -> bool:
    return False


def prompts(count: int, longest: int = 30) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [tuple(torch.randint(5, 290, (length,), generator=generator).tolist()) for length in lengths]


def exact_network(folder: Path) -> Network:
    """In fp64, so that only real differences count. Gemma 2 stays in fp32: its own attention takes softmax in fp32,
    where the mask value of fp64 is minus infinity, and padding becomes NaN."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Network(model if model.config.model_type == "gemma2" else model.double(), str(folder))


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"])
def test_greedy_decoding_equals_transformers_generate_token_for_token(make_model, kind):
    network = exact_network(make_model(kind))
    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(7)]
    ours = decode(network, rows, never)
    for row, decoded in zip(rows, ours, strict=True):
        theirs = network.model.generate(
            torch.tensor([row.prompt_ids]),
            attention_mask=torch.ones(1, len(row.prompt_ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=None,
        )
        assert decoded.ids == tuple(theirs[0, len(row.prompt_ids) :].tolist())
    assert len({decoded.ids for decoded in ours}) > 3, "the random model says the same to everything"


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma2"])
def test_a_row_draws_the_same_tokens_alone_and_in_any_batch(make_model, kind):
    network = exact_network(make_model(kind))
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=12)
    rows = [DecodeRow(ids, sampling, seed) for seed, ids in enumerate(prompts(9))]
    together = decode(network, rows, never)
    assert together == [decode(network, [row], never)[0] for row in rows]
    assert together == decode(network, rows[::-1], never)[::-1]


def test_finished_rows_leave_the_batch_and_the_others_go_on_unchanged(make_model):
    network = exact_network(make_model("Mistral"))
    limits = [2, 3, 20, 4, 1, 20]
    rows = [DecodeRow(ids, Sampling(1.0, 1.0, n), 7) for ids, n in zip(prompts(6), limits, strict=True)]
    decoding = Decoding(network, rows, never)
    widths = []
    while not decoding.done():
        decoding.step()
        widths.append(decoding._next_BS.shape[0])
    assert widths == [6, 6] + [3] * 18, "half of six are done after three tokens; two of three is no half"
    assert decoding.results() == [decode(network, [row], never)[0] for row in rows]
    assert [len(decoded.ids) for decoded in decoding.results()] == limits


def test_a_row_ends_where_its_ending_says_and_keeps_the_ending_id(make_model):
    network = exact_network(make_model())
    row = DecodeRow(prompts(1)[0], GREEDY, 0)
    free = decode(network, [row], never)[0]
    stop = free.ids[5]
    stopped = decode(network, [row], lambda i, ids: ids[-1] == stop)[0]
    assert stopped.ids == free.ids[: free.ids.index(stop) + 1]
    assert (stopped.finish, free.finish) == ("stop", "length")


def test_batches_hold_every_row_once_longest_first_and_within_the_limits():
    rows = [DecodeRow((1,) * (1 + 37 * i % 400), Sampling(max_new_tokens=1000), 0) for i in range(200)]
    plan = list(batches(rows))
    assert sorted(i for batch in plan for i in batch) == list(range(200))
    lengths = [len(rows[i].prompt_ids) for batch in plan for i in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(batch) <= 64 for batch in plan)
    assert all((len(rows[batch[0]].prompt_ids) + 1000) * len(batch) <= 65_536 for batch in plan)
