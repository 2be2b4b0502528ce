"""Sizes from files alone: configurations of several kinds, and the headers of safetensors."""

import json
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.models.local.shape import shape_from_config, shape_of
from cai.models.tiny.weights import FOLDER

PLAIN = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "intermediate_size": 96,
}


def written(folder: Path, config: object, tensors: dict[str, tuple[str, list[int]]]) -> Path:
    """A model's folder with headers only: no byte of a weight is ever read."""
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({name: {"dtype": kind, "shape": sizes} for name, (kind, sizes) in tensors.items()}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def test_the_embedded_model_is_read_to_the_parameter() -> None:
    shape = shape_of(FOLDER)
    assert shape.parameters == 2_607_168
    assert shape.plain == 2048 * 192 + 11 * 192
    assert shape.targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (shape.stored_width, shape.stored) == (2, 2 * 2_607_168)
    assert shape_of(FOLDER / "config.json").parameters == shape.parameters


def test_headers_say_more_than_the_configuration(tmp_path: Path) -> None:
    """Joined matrices, biases and an untied head are counted as they are stored."""
    tensors = {
        "model.embed_tokens.weight": ("BF16", [100, 64]),
        "model.layers.0.self_attn.qkv_proj.weight": ("BF16", [192, 64]),
        "model.layers.0.self_attn.qkv_proj.bias": ("BF16", [192]),
        "model.layers.1.self_attn.qkv_proj.weight": ("BF16", [192, 64]),
        "model.norm.weight": ("BF16", [64]),
        "lm_head.weight": ("BF16", [100, 64]),
    }
    shape = shape_of(written(tmp_path, {**PLAIN, "tie_word_embeddings": False}, tensors))
    assert [(each.name, each.inputs, each.outputs) for each in shape.linears] == [("qkv_proj", 64, 192)] * 2
    assert shape.plain == 2 * 6400 + 192 + 64
    tied = shape_of(written(tmp_path, {**PLAIN, "tie_word_embeddings": True}, tensors))
    assert tied.plain == 6400 + 192 + 64, "a tied head is not held twice"


def test_a_language_model_inside_a_larger_one_is_found() -> None:
    assert shape_from_config({"model_type": "other", "text_config": PLAIN}).width == 64


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "does not say 'num_hidden_layers'"),
        ({**PLAIN, "vocab_size": "many"}, "does not say 'vocab_size'"),
        ({**PLAIN, "num_experts": 8}, "mixtures of experts are not estimated"),
        ([], "is not a JSON object"),
    ],
)
def test_a_configuration_without_sizes_is_refused(tmp_path: Path, config: object, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=says):
        shape_of(tmp_path)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PLAIN))
    for content in (b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]", (5).to_bytes(8, "little") + b"{"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="is no safetensors file"):
            shape_of(tmp_path)
