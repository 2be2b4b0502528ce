"""Our step loop against transformers' generate, and rows against their batch mates."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import attention
from cai.models.local.decode import DecodeRow, Decoding, Memory, _longest_first, decode
from cai.models.local.logprobs import TokenRow, completion_logps
from cai.models.local.network import Network
from cai.models.local.prefix import MIN_SHARED, Kept
from cai.models.local.width import AtOnce
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


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"])
def test_a_shared_beginning_and_rows_taken_in_later_change_no_token(make_model, kind):
    network = exact_network(make_model(kind))
    beginning = tuple(range(20, 20 + 2 * MIN_SHARED))
    limits = [3, 17, 9, 1, 24, 6, 12, 2, 20]
    rows = [
        DecodeRow((*beginning, *ids), Sampling(temperature=0.9, max_new_tokens=limit), seed)
        for seed, (ids, limit) in enumerate(zip(prompts(9), limits, strict=True))
    ]
    alone = [decode(network, [row], never)[0] for row in rows]
    assert decode(network, rows, never) == alone
    assert decode(network, rows, never, at_once=AtOnce(rows=3)) == alone, "rows wait for a place and are taken in later"
    assert [len(decoded.ids) for decoded in alone] == limits


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma2"])
@pytest.mark.parametrize("most", [1, 20_000])
def test_rows_whose_scores_do_not_fit_at_once_take_turns(make_model, monkeypatch, kind, most):
    """With one score at a time each row is alone; with 20,000 two or three go together when prompts are read."""
    network = exact_network(make_model(kind))
    beginning = tuple(range(20, 20 + 2 * MIN_SHARED))
    rows = [DecodeRow((*beginning, *ids), GREEDY, 0) for ids in prompts(7)]
    at_once = decode(network, rows, never)
    monkeypatch.setattr(attention, "MAX_SCORES", most)
    assert decode(network, rows, never) == at_once


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"])
def test_the_way_that_a_gpu_takes_says_the_same(make_model, monkeypatch, kind):
    """Prompts under a causal kernel, rows that go on under a mask, single tokens by their groups of heads."""
    network = exact_network(make_model(kind))
    memory = [Memory(Kept(1 << 26), "base") for _ in range(2)]
    first = [DecodeRow(ids, GREEDY, 0) for ids in prompts(9)]

    def said(kept: Memory) -> list[list[tuple[int, ...]]]:
        turns = [decode(network, first, never, kept, AtOnce(rows=4))]
        more = [
            DecodeRow((*row.prompt_ids, *told.ids, 40, 41), GREEDY, 0)
            for row, told in zip(first, turns[0], strict=True)
        ]
        turns.append(decode(network, more, never, kept))
        return [[row.ids for row in turn] for turn in turns]

    wanted = said(memory[0])
    monkeypatch.setattr(attention, "_FUSED", None)
    assert said(memory[1]) == wanted


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma2"])
def test_a_conversation_goes_on_from_its_kept_states(make_model, kind):
    network = exact_network(make_model(kind))
    memory = Memory(Kept(1 << 26), "base")
    beginning = tuple(range(30, 30 + MIN_SHARED + 5))
    first = [DecodeRow((*beginning, *ids), GREEDY, 0) for ids in prompts(6)]
    answers = decode(network, first, never, memory)
    second = [
        DecodeRow((*row.prompt_ids, *answer.ids, 40, 41, 42 + n), GREEDY, 0)
        for n, (row, answer) in enumerate(zip(first, answers, strict=True))
    ]
    asked: list[int] = []
    read = network.pass_over
    network.pass_over = lambda ids, *rest: asked.append(ids.numel()) or read(ids, *rest)  # type: ignore[method-assign]
    continued = decode(network, second, never, memory)
    assert asked[0] == len(second) * 4, "only the newest id and three tokens of the next turn are read"
    network.pass_over = read  # type: ignore[method-assign]
    assert continued == decode(network, second, never)


def test_samples_of_one_prompt_read_it_once_and_draw_what_each_draws_alone(make_model):
    network = exact_network(make_model())
    one, other = prompts(2)
    sampling = Sampling(temperature=1.0, max_new_tokens=10)
    rows = [DecodeRow(prompt, sampling, seed) for seed, prompt in enumerate([one, other, one, one, other, one])]
    read = network.pass_over
    asked: list[int] = []
    network.pass_over = lambda ids, *rest: asked.append(ids.shape[0]) or read(ids, *rest)  # type: ignore[method-assign]
    together = decode(network, rows, never)
    network.pass_over = read  # type: ignore[method-assign]
    assert asked[:2] == [2, 6] and together == [decode(network, [row], never)[0] for row in rows]
    assert len({decoded.ids for decoded in together}) == 6


def test_states_of_one_owner_are_no_other_owners(make_model):
    network = exact_network(make_model())
    kept = Kept(1 << 26)
    row = DecodeRow(prompts(1, 60)[0] + tuple(range(50, 90)), GREEDY, 0)
    decode(network, [row], never, Memory(kept, "base"))
    assert kept.longest("base", row.prompt_ids) is not None
    assert kept.longest("policy", row.prompt_ids) is None


def test_finished_rows_leave_and_waiting_rows_take_their_places(make_model):
    network = exact_network(make_model("Mistral"))
    limits = [2, 3, 20, 4, 1, 20]
    rows = [DecodeRow(ids, Sampling(1.0, 1.0, n), 7) for ids, n in zip(prompts(6), limits, strict=True)]
    decoding = Decoding(network, rows, never, at_once=AtOnce(rows=4))
    widths = []
    while not decoding.done():
        decoding.step()
        widths.append(len(decoding._held))
    assert widths[:5] == [3, 4, 3, 4, 3], "a place is free after a first token, and taken by the next row in line"
    assert max(widths) <= 4 and decoding.results() == [decode(network, [row], never)[0] for row in rows]
    assert [len(decoded.ids) for decoded in decoding.results()] == limits


def test_log_probabilities_of_drawn_tokens_are_those_of_a_plain_forward_pass(make_model):
    network = exact_network(make_model("Gemma2"))
    rows = [DecodeRow(ids, Sampling(0.7, 0.8, 10), n, logps=True) for n, ids in enumerate(prompts(5))]
    for row, decoded in zip(rows, decode(network, rows, never), strict=True):
        wanted = completion_logps(network, [TokenRow(row.prompt_ids, decoded.ids)]).logps_BT[0]
        assert torch.allclose(torch.tensor(decoded.logps, dtype=wanted.dtype), wanted, atol=1e-4)


def test_a_row_ends_where_its_ending_says_and_keeps_the_ending_id(make_model):
    network = exact_network(make_model())
    row = DecodeRow(prompts(1)[0], GREEDY, 0)
    free = decode(network, [row], never)[0]
    stop = free.ids[5]
    stopped = decode(network, [row], lambda i, ids: ids[-1] == stop)[0]
    assert stopped.ids == free.ids[: free.ids.index(stop) + 1]
    assert (stopped.finish, free.finish) == ("stop", "length")


def test_rows_wait_longest_first_and_within_the_limits(make_model):
    network = exact_network(make_model())
    rows = [DecodeRow((1,) * (1 + 37 * i % 400), Sampling(max_new_tokens=1000), 0) for i in range(200)]
    assert sorted(_longest_first(rows)) == list(range(200))
    lengths = [len(rows[i].prompt_ids) for i in _longest_first(rows)]
    assert lengths == sorted(lengths, reverse=True)
    assert Decoding(network, rows, never)._slots.rows == 65_536 // (max(lengths) + 1000) < 64
    assert Decoding(network, rows, never, at_once=AtOnce(64, 1000))._slots.rows == 1, "one row there always is"
    assert Decoding(network, rows[:1], never)._slots.rows == 1
