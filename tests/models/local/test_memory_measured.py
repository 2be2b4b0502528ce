"""The estimate against what torch holds: weights to the byte, keys and values to the byte, activations nearly so.

Peaks of whole processes are compared in bench/memory.py.
"""

import json
from pathlib import Path

import pytest
import torch

from bench.memory import BAR, JOBS, RESULTS, compared
from cai.models.local import choices, decode, fused, head, workbench
from cai.models.local.attention import Pass
from cai.models.local.logprobs import TokenRow
from cai.models.local.memory import (
    KEPT_BYTES,
    PASS_TOKENS,
    PREFILL_TOKENS,
    TILE_LOGITS,
    Setup,
    adapter_parameters,
    cache_bytes,
    need,
    saved_bytes,
    weight_bytes,
)
from cai.models.local.quantization import weights_on_device
from cai.models.local.shape import shape_of
from cai.models.local.spec import LoraSpec


def test_the_limits_are_those_of_the_engine() -> None:
    assert decode.PREFILL_TOKENS == PREFILL_TOKENS
    assert workbench.KEPT_BYTES == KEPT_BYTES
    assert (PASS_TOKENS, TILE_LOGITS) == (choices.MAX_PASS_TOKENS, head.ROOM)


@pytest.mark.parametrize(("precision", "width"), [("auto", 4), ("bf16", 2)])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Phi3", "Gemma2"])
def test_weights_are_told_to_the_byte(
    open_bench, make_model, kind: str, quantization: str, precision: str, width: int
) -> None:
    folder = make_model(kind)
    bench = open_bench(quantization, folder, precision=precision)
    assert weights_on_device(bench.network) == weight_bytes(shape_of(folder), quantization, width)


@pytest.mark.parametrize(("precision", "width"), [("auto", 4), ("fp32", 4), ("bf16", 2)])
def test_copies_adapters_and_cached_positions_are_told_to_the_byte(
    open_bench, make_model, precision: str, width: int
) -> None:
    shape = shape_of(make_model())
    bench = open_bench("nf4", lora=LoraSpec(rank=4), precision=precision)
    setup = Setup(shape, device="cpu", dense_copies=True, precision=precision)
    assert bench.dense_bytes == width * shape.linear == need(setup).of("dense copies of 4-bit weights")
    trainee = bench.trainee(None, 1)
    assert sum(p.numel() for p in trainee.parameters().values()) == adapter_parameters(shape, LoraSpec(rank=4))
    made: list[torch.Tensor] = []
    with torch.no_grad():
        at = torch.arange(5)[None]
        bench.network.pass_over(bench.network.tensor([[1, 2, 3, 4, 5]] * 3), at, Pass(at, made=made))
    assert sum(layer.nbytes for layer in made) == 15 * cache_bytes(setup)


@pytest.mark.parametrize(("kind", "config"), [("Llama", {}), ("Llama", {"num_key_value_heads": 4}), ("Qwen3", {})])
def test_what_a_layer_keeps_for_the_backward_pass_is_told_within_a_tenth(
    open_bench, make_model, kind: str, config: dict[str, int]
) -> None:
    """Counted with autograd's own hook, each storage once, weights left out; between one layer more and one less."""
    kept = []
    for layers in (2, 3):
        folder = make_model(kind, num_hidden_layers=layers, **config)
        bench = open_bench("none", folder, lora=LoraSpec(rank=4))
        kept.append(kept_bytes(bench))
    setup = Setup(shape_of(make_model(kind, **config)), "none", "cpu", LoraSpec(rank=4))
    assert kept[1] - kept[0] == pytest.approx(4 * 63 * saved_bytes(setup), rel=0.1)


@pytest.mark.parametrize(("kind", "config"), [("Llama", {}), ("Llama", {"num_key_value_heads": 4}), ("Qwen3", {})])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_16_bits_it_is_told_within_a_tenth_too(
    open_bench, make_model, kind: str, config: dict[str, int], quantization: str
) -> None:
    """The same count in bf16: adapters stay fp32, so each casts its input for itself, and nothing is fused."""
    kept = []
    for layers in (2, 3):
        folder = make_model(kind, num_hidden_layers=layers, **config)
        kept.append(kept_bytes(open_bench(quantization, folder, lora=LoraSpec(rank=4), precision="bf16")))
    setup = Setup(shape_of(make_model(kind, **config)), quantization, "cpu", LoraSpec(rank=4), precision="bf16")
    assert kept[1] - kept[0] == pytest.approx(4 * 63 * saved_bytes(setup), rel=0.1)


def test_in_32_bits_on_a_gpu_nothing_is_fused_and_it_is_told_within_a_tenth(open_bench, make_model) -> None:
    """Counted on a CPU with transformers' own gated units and norms, and as many heads of keys as of queries: all in
    which the two differ here."""
    kept = []
    for layers in (2, 3):
        bench = open_bench("none", make_model(num_hidden_layers=layers, num_key_value_heads=4), lora=LoraSpec(rank=4))
        for module in bench.network.model.modules():
            if type(vars(module).get("forward")).__module__ == fused.__name__:
                del module.forward
        kept.append(kept_bytes(bench))
    setup = Setup(shape_of(make_model(num_key_value_heads=4)), "none", "cuda", LoraSpec(rank=4), precision="fp32")
    assert kept[1] - kept[0] == pytest.approx(4 * 63 * saved_bytes(setup), rel=0.1)


def kept_bytes(bench) -> int:
    trainee = bench.trainee(None, 1)
    weights = {p.untyped_storage().data_ptr() for p in bench.network.model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    rows = [TokenRow(tuple(range(10 + i, 42 + i)), tuple(range(50 + i, 82 + i))) for i in range(4)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.policy_logps(rows)
    return sum(kept.values())


@pytest.mark.parametrize("name", ["tiny none dpo", "13M none in bf16 dpo"])
def test_a_peak_is_told_within_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Two lines of the bench, each in a process of its own: passes in one lane, and passes that go in two."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    job = next(job for job in JOBS if job.name.startswith(name))
    told = compared(job, tmp_path, "cpu")
    assert told["met"], told


def test_the_results_that_are_shown_meet_the_bar() -> None:
    results = json.loads(RESULTS.read_text())["results"]
    assert results
    assert {each["name"].partition(" on ")[0] for each in results} <= {job.name for job in JOBS}
    missed = [each for each in results if abs(each["ratio"] - 1) > BAR]
    assert missed == []
