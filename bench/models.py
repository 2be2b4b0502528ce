"""Small models with random weights for the benches: a Llama of 13 M parameters with a vocabulary of 32,000."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cai.models.local.network import Network


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


def texts(count: int, shortest: int, longest: int, seed: int) -> list[tuple[int, ...]]:
    """Random ids of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [tuple(torch.randint(10, 32_000, (n,), generator=generator).tolist()) for n in lengths]
