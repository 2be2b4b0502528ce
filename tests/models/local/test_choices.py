"""Weighing continuations: every sum equals a plain forward pass of its own, however much of the reading is shared."""

from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import attention
from cai.models.local.choices import MAX_TREE_TOKENS, choice_logps
from cai.models.local.decode import Memory
from cai.models.local.network import Network
from cai.models.local.prefix import MIN_SHARED, Kept

FEW_SHOT = tuple(range(100, 100 + 2 * MIN_SHARED))
ORDERS = (((60, 61, 62), (63, 64)), ((63, 64), (60, 61, 62)))


def exact_network(folder: Path) -> Network:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Network(model if model.config.model_type == "gemma2" else model.double(), str(folder))


def by_hand(network: Network, prompt: tuple[int, ...], option: tuple[int, ...]) -> float:
    with torch.no_grad():
        logits = network.model(input_ids=torch.tensor([[*prompt, *option]]), use_cache=False).logits[0]
    logps = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
    return sum(float(logps[k, token]) for k, token in enumerate(option))


def judgements(few_shot: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Three requests, each judged by two principles in both orders."""
    requests = [(10 + n, *range(20, 40 + 3 * n)) for n in range(3)]
    principles = [(50, 51, 52, 53), (50, 54)]
    return [
        (*few_shot, *request, *principle, *first, *second, 70)
        for request, principle, (first, second) in product(requests, principles, ORDERS)
    ]


def read_tokens(network: Network) -> list[int]:
    """How many columns each pass from now on reads."""
    seen: list[int] = []
    network.model.base_model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].numel())
    )
    return seen


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"])
@pytest.mark.parametrize("few_shot", [(), FEW_SHOT])
@pytest.mark.parametrize("kernels", ["of a CPU", "of a GPU"])
def test_every_choice_is_the_sum_of_its_tokens_log_probabilities(make_model, monkeypatch, kind, few_shot, kernels):
    if kernels == "of a GPU":
        monkeypatch.setattr(attention, "_FUSED", None)
    network = exact_network(make_model(kind))
    options = [(80,), (81,), (80, 82), (80, 83, 84), (85, 86)]
    prompts = [*judgements(few_shot), (5, 6, 7), (5, 6)]
    with torch.inference_mode():
        found = choice_logps(network, [(prompt, options) for prompt in prompts])
    for prompt, sums in zip(prompts, found, strict=True):
        assert sums == pytest.approx([by_hand(network, prompt, option) for option in options], abs=1e-4)


def test_what_judgements_share_is_read_once(make_model):
    network = exact_network(make_model())
    prompts = judgements(FEW_SHOT)
    seen = read_tokens(network)
    with torch.inference_mode():
        choice_logps(network, [(prompt, [(80,), (81,)]) for prompt in prompts])
    assert sum(seen) < 0.3 * sum(map(len, prompts)), (seen, sum(map(len, prompts)))


def test_a_shared_beginning_is_kept_for_the_next_call(make_model):
    network = exact_network(make_model())
    rows = [(prompt, [(80,), (81,)]) for prompt in judgements(FEW_SHOT)]
    memory = Memory(Kept(1 << 26), "base")
    with torch.inference_mode():
        first = choice_logps(network, rows, memory)
        seen = read_tokens(network)
        again = choice_logps(network, rows, memory)
    assert first == again and len(seen) == 1


def test_one_token_choices_cost_one_text_and_equal_prompts_are_read_once(make_model):
    network = exact_network(make_model())
    seen = read_tokens(network)
    with torch.inference_mode():
        found = choice_logps(network, [((5, 6, 7), [(1,), (2,), (3,)]), ((5, 6, 7), [(1,), (2,)])])
    assert seen == [3] and found[0][:2] == pytest.approx(found[1], abs=1e-12)


def test_a_tree_grows_no_longer_than_it_may(make_model):
    network = exact_network(make_model(max_position_embeddings=2048))
    request = tuple(range(5, 205))
    rows = [((*request, *(200 + n + k for k in range(80))), [(80,), (81,)]) for n in range(12)]
    rows += [((5, 5, 5), [(80,)])]
    seen = read_tokens(network)
    with torch.inference_mode():
        found = choice_logps(network, rows)
    assert max(seen) <= 3 * MAX_TREE_TOKENS
    for prompt, options in (rows[0], rows[11], rows[12]):
        sums = found[rows.index((prompt, options))]
        assert sums == pytest.approx([by_hand(network, prompt, option) for option in options], abs=1e-4)
