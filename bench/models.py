"""What the speed benches share: the models they measure on, and the peer's way.

One is a random Llama of 13 M parameters with a vocabulary of 32,000, the other the embedded model, whose texts are here
as long as the other's, longer than any it was taught: what they say does not matter.
"""

import argparse
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from cai.models.local.network import Network
from cai.models.tiny.weights import FOLDER

Ids = tuple[int, ...]
PAGE = 128
"""Positions in a page of `generate_batch`'s cache."""
ModelName = Literal["random", "embedded"]


def options(description: str | None, rows: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--model", choices=("random", "embedded"), default="random")
    return parser


def named(bench: str, model: ModelName) -> str:
    """What the results are kept under."""
    return bench if model == "random" else f"{bench}-{model}"


def opened(name: ModelName) -> LlamaForCausalLM:
    return small_llama() if name == "random" else embedded()


def embedded() -> LlamaForCausalLM:
    """In fp32, and with no wishes of its own about generating."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.eval()


def small_llama(context: int = 4096) -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def network_of(model: LlamaForCausalLM) -> Network:
    return Network(model, "the bench's own model")


def texts(model: LlamaForCausalLM, count: int, shortest: int, longest: int, seed: int) -> list[Ids]:
    """Random ids of the model's vocabulary, of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [tuple(torch.randint(10, model.config.vocab_size, (n,), generator=generator).tolist()) for n in lengths]


def generated(
    model: LlamaForCausalLM, prompts: Sequence[Ids], width: int, new_tokens: int, stops: frozenset[int] = frozenset()
) -> list[Ids]:
    """transformers' `generate`, greedy, on left-padded batches of prompts of like length."""
    found: dict[int, Ids] = {}
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), width):
        batch = order[start : start + width]
        longest = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[*[0] * (longest - len(prompts[i])), *prompts[i]] for i in batch])
        mask = torch.tensor([[*[0] * (longest - len(prompts[i])), *[1] * len(prompts[i])] for i in batch])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new_tokens,
                eos_token_id=sorted(stops) or None,
                pad_token_id=0,
            )
        for i, answer in zip(batch, out[:, longest:].tolist(), strict=True):
            end = next((k for k, token in enumerate(answer, 1) if token in stops), len(answer))
            found[i] = tuple(answer[:end])
    return [found[i] for i in range(len(prompts))]


def batched(
    model: LlamaForCausalLM, prompts: Sequence[Ids], width: int, new_tokens: int, stops: frozenset[int] = frozenset()
) -> list[Ids]:
    """transformers' `generate_batch`: new prompts come in as others finish, over a cache in pages."""
    longest = max(map(len, prompts)) + new_tokens
    config = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=sorted(stops) or None, pad_token_id=0
    )
    batching = ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=width * -(-longest // PAGE) + 1, max_requests_per_batch=width, max_batch_tokens=1024
    )
    told = model.generate_batch([list(prompt) for prompt in prompts], config, batching)
    assert len(told) == len(prompts), "generate_batch lost some of its prompts"
    return [tuple(each.generated_tokens) for each in told.values()]
