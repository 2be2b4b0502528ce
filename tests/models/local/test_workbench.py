"""Opening a workbench: what is refused and how fast, and what fingerprints and facts say."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from cai.errors import InputError, MissingModel
from cai.models.local.compiled import compiler
from cai.models.local.workbench import ModelSpec, open_workbench
from cai.models.protocol import Request, Sampling
from cai.records import Message

HELLO = Request((Message("user", "hello"),), Sampling(temperature=0, max_new_tokens=8))


@pytest.fixture
def copied(make_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_model(), folder)
    return folder


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "spec", [ModelSpec("no/such/folder"), ModelSpec("./nowhere"), ModelSpec("nobody"), ModelSpec("/nowhere/at/all")]
)
def test_a_folder_that_is_not_there_is_missing(spec):
    with pytest.raises(
        MissingModel, match=f"{spec.base}: there is no such model folder; give `tiny`, a folder, or a hub"
    ):
        open_workbench(spec)


def test_a_hub_model_without_a_network_is_refused_within_five_seconds(monkeypatch, tmp_path):
    """The proxy is an address where nothing listens, so this machine's network does not matter."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(MissingModel, match="not in the cache, and the hub does not answer"):
        open_workbench(ModelSpec("nobody/nothing", revision="0" * 40))
    assert time.monotonic() - started < 5


def test_a_hub_model_without_a_revision_is_refused():
    with pytest.raises(InputError, match="needs a pinned revision; set `revision` to a commit"):
        open_workbench(ModelSpec("nobody/nothing"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused_before_it_is_loaded(copied, name, tmp_path):
    marker = tmp_path / "ran"
    (copied / "modeling_x.py").write_text(f"open({str(marker)!r}, 'w')\n")
    edit(copied / name, auto_map={"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C"})
    with pytest.raises(InputError, match="asks to run code"):
        open_workbench(ModelSpec(str(copied)))
    assert not marker.exists()


def test_weights_in_a_pickle_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only as a pickle, which can run code, got pytorch_model.bin; convert it"):
        open_workbench(ModelSpec(str(copied)))


def test_incomplete_and_damaged_models_are_refused(copied):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingModel, match="lacks some of the weight files"):
        open_workbench(ModelSpec(str(copied)))
    (copied / "model.safetensors.index.json").unlink()
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingModel, match="cannot be loaded"):
        open_workbench(ModelSpec(str(copied)))
    (copied / "model.safetensors").unlink()
    with pytest.raises(MissingModel, match="has no safetensors weights"):
        open_workbench(ModelSpec(str(copied)))
    (copied / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: is not JSON"):
        open_workbench(ModelSpec(str(copied)))
    (copied / "config.json").unlink()
    with pytest.raises(MissingModel, match=r"has no config.json"):
        open_workbench(ModelSpec(str(copied)))


def test_an_already_quantised_model_is_refused(copied):
    edit(copied / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(InputError, match="is already quantised"):
        open_workbench(ModelSpec(str(copied)))


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused(make_model, device):
    with pytest.raises(InputError, match=r"device: .*choose auto"):
        open_workbench(ModelSpec(str(make_model()), device=device))


def test_a_fingerprint_covers_weights_quantisation_template_clock_precision_and_adapter(open_bench, copied, tmp_path):
    bench = open_bench("nf4")
    seen = {bench.view().fingerprint, open_bench("none").view().fingerprint}
    seen.add(open_bench("nf4", template="chatml").view().fingerprint)
    seen.add(open_bench("nf4", clock="2025-01-01").view().fingerprint)
    seen |= {open_bench("nf4", precision=precision).view().fingerprint for precision in ("auto", "fp32", "bf16")}
    assert open_bench("nf4", folder=copied).view().fingerprint == bench.view().fingerprint, "a copy elsewhere is equal"
    tensors = load_file(copied / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    seen.add(open_bench("nf4", folder=copied).view().fingerprint)
    for seed in (1, 2):
        bench.trainee(None, seed).save(tmp_path / str(seed))
        seen.add(bench.view(tmp_path / str(seed)).fingerprint)
    assert len(seen) == 9
    shutil.copytree(tmp_path / "1", tmp_path / "copy")
    edit(tmp_path / "copy" / "adapter_config.json", base_model_name_or_path="elsewhere")
    again = bench.view(tmp_path / "copy")
    assert (again.name, again.fingerprint) == (bench.view(tmp_path / "1").name, bench.view(tmp_path / "1").fingerprint)


def test_facts_are_json_and_name_what_numbers_depend_on(open_bench):
    facts = open_bench("nf4").facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["threads"] == torch.get_num_threads() and facts["cpu_capability"] in ("AVX512", "AVX2", "DEFAULT")
    assert facts["c_compiler"] == (compiler() is not None)
    assert facts["template_date"] == "2026-01-01" and len(str(facts["template_sha256"])) == 64
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= dict(facts["versions"]).keys()
    assert facts["deterministic"] is True


def test_an_adapter_folder_that_is_not_plain_lora_in_safetensors_is_refused(open_bench, tmp_path):
    bench = open_bench("none")
    bench.trainee(None, 1).save(tmp_path)
    edit(tmp_path / "adapter_config.json", use_dora=True)
    with pytest.raises(InputError, match="only plain LoRA is supported, and use_dora is not"):
        bench.view(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="other weight files are not loaded"):
        bench.view(tmp_path)
    with pytest.raises(InputError, match=r"adapter_config.json is missing"):
        bench.view(tmp_path / "nothing")


def test_a_view_of_an_adapter_answers_as_the_trainee_that_saved_it(open_bench, tmp_path):
    bench = open_bench("nf4")
    trainee = bench.trainee(None, seed=1)
    for parameter in trainee.parameters().values():
        parameter.data += 0.05
    trainee.save(tmp_path)
    tuned = bench.view(tmp_path).generate([HELLO])
    assert tuned == trainee.view().generate([HELLO]) != bench.view().generate([HELLO])
