"""Small models with random weights, made on the fly: a byte-level tokenizer, a ChatML template, two layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cai.models.local.shape import Shape, shape_from_config
from cai.models.local.workbench import ModelSpec, Workbench, open_workbench
from tests.models.shapes import LLAMA_8B

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
OWN: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": 8, "head_dim": 16},
    "Gemma2": {
        "sliding_window": 8,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Phi3": {},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
}

MakeModel = Callable[..., Path]
OpenBench = Callable[..., Workbench]


@pytest.fixture
def llama() -> Shape:
    """Of eight billion parameters, for arithmetic on sizes alone."""
    return shape_from_config(LLAMA_8B)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model("Llama", template=None) -> a transformers folder of that architecture."""
    made: dict[str, Path] = {}

    def make(kind: str = "Llama", template: str | None = CHATML, **config: Any) -> Path:
        key = json.dumps([kind, template, config], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(kind)
            tokenizer = _tokenizer(template)
            tokenizer.save_pretrained(made[key])
            ends = {
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": None,
            }
            sizes = {"vocab_size": len(tokenizer) + 4, **SIZES, **OWN[kind], **ends, **config}
            with torch.random.fork_rng():
                torch.manual_seed(3)
                model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
            model.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def open_bench(make_model: MakeModel) -> OpenBench:
    """open_bench("nf4") -> a workbench of its own on the small Llama; other settings are the ModelSpec's."""

    def open_one(quantization: str = "nf4", folder: Path | None = None, **settings: Any) -> Workbench:
        return open_workbench(ModelSpec(str(folder or make_model()), quantization=quantization, **settings))

    return open_one


def _tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox says hello to the world", "a small test of text"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = template
    return fast
