"""Adapters on one 4-bit base: what moves, what stays, and what plain transformers and peft make of the result."""

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cai.errors import InputError
from cai.models.local.logprobs import TokenRow
from cai.models.local.upstream import dequantised, four_bit_layers, keep_dense_copies, quantization_config
from cai.models.local.workbench import LoraSpec
from cai.models.protocol import Request, Sampling
from cai.records import Message

ROWS = [TokenRow((5, 6, 7, 8), (20, 21, 2)), TokenRow((9, 10), (22, 23, 24, 25, 2))]


def gradients(trainee) -> dict[str, torch.Tensor]:
    for parameter in trainee.parameters().values():
        parameter.grad = None
    trainee.policy_logps(ROWS).sums().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in trainee.parameters().items()}


def one_step(trainee, rate=0.05) -> None:
    for (name, gradient), parameter in zip(gradients(trainee).items(), trainee.parameters().values(), strict=True):
        parameter.data += rate * (gradient.sign() if "lora_B" in name else gradient)


def snapshot(workbench) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in workbench.network.model.state_dict().items() if ".lora_" not in k}


def talk(workbench) -> None:
    request = Request((Message("user", "hello"),), Sampling(max_new_tokens=5))
    workbench.view().generate([request])


def without_dense_copies(workbench):
    for layer in four_bit_layers(workbench.network.model):
        del layer.forward
    return workbench


def test_every_linear_layer_of_the_decoder_is_nf4_and_the_head_is_not(open_bench):
    model = open_bench("nf4").network.model
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    four_bit = {name for name, module in linear.items() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    assert linear.keys() - four_bit == {"lm_head"} and len(four_bit) == 2 * 7
    for name in four_bit:
        state = linear[name].weight.quant_state
        assert (state.quant_type, state.nested, linear[name].weight.dtype) == ("nf4", True, torch.uint8)
        assert not linear[name].support_avx512bf16_for_cpu


def test_only_lora_moves_and_lora_is_fp32(open_bench):
    workbench = open_bench("nf4")
    trainee = workbench.trainee(None, seed=1)
    before, start = snapshot(workbench), trainee.state()
    optimizer = torch.optim.AdamW(trainee.parameters().values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        (-trainee.policy_logps(ROWS).sums().sum()).backward()
        optimizer.step()
    after = snapshot(workbench)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert all(not torch.equal(start[k], v) for k, v in trainee.state().items()), "every LoRA matrix should move"
    trained = {name for name, p in workbench.network.model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert all(p.dtype == torch.float32 for p in trainee.parameters().values())


@pytest.mark.parametrize("dense", [True, False])
def test_gradients_before_generating_equal_gradients_after(open_bench, dense):
    """The trap of docs/decisions/bitsandbytes-trap.md, on the cached copies and on bitsandbytes' own path."""
    workbench = open_bench("nf4") if dense else without_dense_copies(open_bench("nf4"))
    trainee = workbench.trainee(None, seed=1)
    one_step(trainee)
    before = gradients(trainee)
    talk(workbench)
    after = gradients(trainee)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert max(gradient.abs().max() for gradient in before.values()) > 1e-2


def test_cached_fp32_copies_give_the_values_and_gradients_of_the_four_bit_layers(open_bench):
    cached, plain = open_bench("nf4"), without_dense_copies(open_bench("nf4"))
    assert cached.facts["dense_copy"] is True
    results = []
    for workbench in (cached, plain):
        trainee = workbench.trainee(None, seed=1)
        one_step(trainee)
        results.append((trainee.policy_logps(ROWS).logps_BT.detach(), gradients(trainee)))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], atol=1e-5, rtol=1e-4), name


def test_a_cached_copy_is_exactly_what_the_four_bits_say(open_bench):
    model = open_bench("nf4").network.model
    for layer in four_bit_layers(model):
        x = torch.eye(layer.in_features)
        assert torch.equal(layer.forward(x).T.contiguous(), dequantised(layer))
        del layer.forward
        assert torch.allclose(layer.forward(x).T, dequantised(layer), atol=1e-7)
    assert keep_dense_copies(model) == sum(4 * m.in_features * m.out_features for m in four_bit_layers(model))


def test_a_fresh_policy_equals_its_reference_to_the_last_bit(open_bench):
    trainee = open_bench("nf4").trainee(None, seed=1)
    assert torch.equal(trainee.policy_logps(ROWS).logps_BT.detach(), trainee.reference_logps(ROWS).logps_BT)


def test_a_policy_that_continues_an_adapter_is_compared_with_a_frozen_copy_of_it(open_bench, tmp_path):
    workbench = open_bench("nf4")
    first = workbench.trainee(None, seed=1)
    one_step(first)
    first.save(tmp_path)
    base = first.reference_logps(ROWS).logps_BT
    second = workbench.trainee(tmp_path, seed=2)
    reference = second.reference_logps(ROWS).logps_BT
    assert torch.equal(second.policy_logps(ROWS).logps_BT.detach(), reference)
    assert not torch.allclose(reference, base, atol=1e-2)
    one_step(second)
    assert torch.equal(second.reference_logps(ROWS).logps_BT, reference)
    assert not torch.allclose(second.policy_logps(ROWS).logps_BT, reference, atol=1e-2)


def test_switching_roles_between_forward_and_backward_loses_no_gradient(open_bench):
    workbench = open_bench("nf4")
    trainee = workbench.trainee(None, seed=1)
    one_step(trainee)
    expected = gradients(trainee)
    for parameter in trainee.parameters().values():
        parameter.grad = None
    loss = trainee.policy_logps(ROWS).sums().sum()
    trainee.reference_logps(ROWS)
    trainee.view().generate([Request((Message("user", "hi"),), Sampling(max_new_tokens=2))])
    workbench.trainee(None, seed=9)
    loss.backward()
    assert all(torch.equal(p.grad, expected[name]) for name, p in trainee.parameters().items())


def test_a_seed_gives_the_same_adapter_whatever_the_global_generator_did(open_bench):
    workbench = open_bench("nf4")
    torch.manual_seed(0)
    first = workbench.trainee(None, seed=4).state()
    torch.rand(7)
    state = torch.get_rng_state()
    again, other = workbench.trainee(None, seed=4).state(), workbench.trainee(None, seed=5).state()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert all(torch.equal(first[k], other[k]) == ("lora_B" in k) for k in first)


def test_a_resting_policy_answers_as_it_stands_and_remembers_nothing_afterwards(open_bench):
    """Greedily, after every step: an answer or a dense copy of older weights would be seen."""
    workbench = open_bench("nf4")
    trainee = workbench.trainee(None, seed=4)
    asked = [Request((Message("user", text),), Sampling(0.0, max_new_tokens=8)) for text in ("hello", "hi", "hello")]
    told = []
    for _ in range(3):
        one_step(trainee, rate=0.3)
        with trainee.resting() as view:
            answers = view.generate(asked)
            assert workbench._bench.replicas._held
        assert not workbench._bench.replicas._held
        assert trainee.policy not in {owner for owner, _ in workbench._bench.kept._entries}
        expected = gradients(trainee)
        assert answers == trainee.view().generate(asked)
        assert all(torch.equal(gradients(trainee)[name], expected[name]) for name in expected)
        told.append([answer.token_ids for answer in answers])
    assert told[0] != told[1] != told[2]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_saved_adapter_gives_the_same_logits_in_plain_transformers_and_peft(
    open_bench, make_model, tmp_path, quantization
):
    workbench = open_bench(quantization)
    trainee = workbench.trainee(None, seed=1)
    one_step(trainee)
    trainee.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(
        make_model(), dtype=torch.float32, quantization_config=quantization_config(quantization, torch.float32)
    )
    for layer in four_bit_layers(plain):
        layer.support_avx512bf16_for_cpu = False
    tuned = PeftModel.from_pretrained(plain, tmp_path).eval()
    row = ROWS[1]
    with torch.no_grad():
        logits = tuned(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0]
    expected = logits.log_softmax(-1)[1:-1].gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0]
    ours = trainee.policy_logps([row]).logps_BT[0].detach()
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(trainee.reference_logps([row]).logps_BT[0], expected, atol=1e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_saving_twice_writes_the_same_bytes(open_bench, tmp_path):
    trainee = open_bench("nf4").trainee(None, seed=1)
    one_step(trainee)
    trainee.save(tmp_path / "a")
    trainee.save(tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_state_brings_the_policy_back(open_bench):
    trainee = open_bench("nf4").trainee(None, seed=1)
    one_step(trainee)
    state, logps = trainee.state(), trainee.policy_logps(ROWS).logps_BT.detach()
    fingerprint = trainee.view().fingerprint
    one_step(trainee)
    assert not torch.equal(trainee.policy_logps(ROWS).logps_BT, logps)
    assert trainee.view().fingerprint != fingerprint
    trainee.load_state(state)
    assert torch.equal(trainee.policy_logps(ROWS).logps_BT, logps)
    assert trainee.view().fingerprint == fingerprint
    assert all(parameter.requires_grad for parameter in trainee.parameters().values())
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match="is missing"):
        trainee.load_state(state)


def test_released_adapters_leave_no_parameter_behind(open_bench, tmp_path):
    workbench = open_bench("nf4")
    keep = workbench.trainee(None, seed=1)
    keep.save(tmp_path)
    logps = keep.policy_logps(ROWS).logps_BT.detach()
    count = sum(1 for _ in workbench.network.model.parameters())
    gone = workbench.trainee(tmp_path, seed=2)
    assert sum(1 for _ in workbench.network.model.parameters()) > count
    workbench.release(gone)
    assert sum(1 for _ in workbench.network.model.parameters()) == count
    assert torch.equal(keep.policy_logps(ROWS).logps_BT, logps)


def test_dropout_moves_only_a_policy_that_asks_for_it_and_repeats_with_its_seed(open_bench):
    trainee = open_bench("nf4", lora=LoraSpec(dropout=0.5)).trainee(None, seed=1)
    one_step(trainee)
    plain = trainee.policy_logps(ROWS).logps_BT.detach()
    first = trainee.policy_logps(ROWS, dropout_seed=3).logps_BT.detach()
    again = trainee.policy_logps(ROWS, dropout_seed=3).logps_BT.detach()
    assert torch.equal(first, again) and not torch.allclose(first, plain, atol=1e-3)
    assert torch.equal(trainee.policy_logps(ROWS).logps_BT, plain)


def test_an_unknown_target_layer_is_refused_with_those_there_are(open_bench):
    with pytest.raises(InputError, match=r"lora.targets: .* got qproj; choose among down_proj, .*q_proj"):
        open_bench("nf4", lora=LoraSpec(targets=("q_proj", "qproj"))).trainee(None, seed=1)


def test_an_adapter_of_another_base_is_refused(open_bench, make_model, tmp_path):
    open_bench("none", folder=make_model(hidden_size=32)).trainee(None, seed=1).save(tmp_path)
    workbench = open_bench("none")
    with pytest.raises(InputError, match="does not fit this base model"):
        workbench.view(tmp_path)
    assert not any(".lora_" in name for name, _ in workbench.network.model.named_parameters())


def test_int8_trains_and_generates(open_bench):
    workbench = open_bench("int8")
    trainee = workbench.trainee(None, seed=1)
    one_step(trainee)
    before = gradients(trainee)
    talk(workbench)
    assert all(torch.equal(before[name], gradient) for name, gradient in gradients(trainee).items())
