"""Merged weights: W + s·B·A in the base's own type, in its own files, everything else as it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cai.errors import InputError
from cai.models.local.lora import read_adapter
from cai.models.local.merging import weight_files, write_merged_weights


@pytest.fixture
def adapter(open_bench, tmp_path) -> Path:
    trainee = open_bench("none").trainee(None, seed=1)
    for name, parameter in trainee.parameters().items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(7))
    trainee.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()}


def in_type(make_model, tmp_path: Path, dtype: torch.dtype, **how) -> Path:
    folder = Path(shutil.copytree(make_model(), tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=dtype)
    model.save_pretrained(folder, **how)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapted_matrices_get_the_product_and_nothing_else_moves(make_model, adapter, tmp_path, dtype):
    base = in_type(make_model, tmp_path, dtype)
    (tmp_path / "merged").mkdir()
    kind = write_merged_weights(base, adapter, tmp_path / "merged")
    assert kind == {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    before, after = stored(base), stored(tmp_path / "merged")
    config, tensors = read_adapter(adapter)
    adapted = {key.removesuffix(".lora_A.weight") for key in tensors if ".lora_A." in key}
    assert before.keys() == after.keys() and len(adapted) == 14
    for name, weight in before.items():
        path = name.removesuffix(".weight")
        if path in adapted:
            a, b = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
            expected = (weight.float() + config.lora_alpha / config.r * (b @ a)).to(dtype)
            assert torch.equal(after[name], expected) and not torch.equal(expected, weight)
        else:
            assert torch.equal(after[name], weight), name


def test_shards_keep_their_names_their_index_and_their_notes(make_model, adapter, tmp_path):
    base = in_type(make_model, tmp_path, torch.bfloat16, max_shard_size="100KB")
    (base / "consolidated.safetensors").write_bytes(b"another copy that the index does not name")
    (tmp_path / "merged").mkdir()
    write_merged_weights(base, adapter, tmp_path / "merged")
    index = "model.safetensors.index.json"
    names = sorted(set(json.loads((base / index).read_text())["weight_map"].values()))
    assert len(names) > 2 and sorted(p.name for p in (tmp_path / "merged").iterdir()) == [*names, index]
    assert (tmp_path / "merged" / index).read_bytes() == (base / index).read_bytes()
    for name in names:
        assert (base / name).stat().st_size == (tmp_path / "merged" / name).stat().st_size
        with safe_open(base / name, "pt") as old, safe_open(tmp_path / "merged" / name, "pt") as new:
            assert list(old.keys()) == list(new.keys()) and old.metadata() == new.metadata()


def test_files_of_a_bare_decoder_are_merged_under_their_own_names(make_model, adapter, tmp_path):
    base = Path(shutil.copytree(make_model(), tmp_path / "base"))
    tensors = {name.removeprefix("model."): t for name, t in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors")
    (tmp_path / "merged").mkdir()
    write_merged_weights(base, adapter, tmp_path / "merged")
    after = stored(tmp_path / "merged")
    assert not torch.equal(after["layers.0.mlp.up_proj.weight"], tensors["layers.0.mlp.up_proj.weight"])


def test_what_cannot_be_merged_is_refused(make_model, adapter, tmp_path):
    (tmp_path / "merged").mkdir()
    with pytest.raises(InputError, match=r"is no matrix of .* floats, got .*; merge into the base it was trained on"):
        write_merged_weights(make_model(intermediate_size=64), adapter, tmp_path / "merged")
    with pytest.raises(InputError, match=r"adapts a matrix that the base's files do not have, got model.layers.1"):
        write_merged_weights(make_model(num_hidden_layers=1), adapter, tmp_path / "merged")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    with pytest.raises(InputError, match="has a scaling of its own"):
        write_merged_weights(make_model(), adapter, tmp_path / "merged")


def test_a_sum_that_the_type_cannot_hold_is_refused(make_model, adapter, tmp_path):
    base = in_type(make_model, tmp_path, torch.float16)
    path = adapter / "adapter_model.safetensors"
    save_file({name: t * 1000 for name, t in load_file(path).items()}, path)
    (tmp_path / "merged").mkdir()
    with pytest.raises(InputError, match="has a merged weight that its type cannot hold; the base is stored as"):
        write_merged_weights(base, adapter, tmp_path / "merged")


def test_an_ambiguous_folder_is_refused(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"has several weight files and no model.safetensors.index.json"):
        weight_files(tmp_path)
