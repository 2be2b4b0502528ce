"""What a model computes in: by device where nothing is said, in fp32 or bf16 where it is, and what stays fp32."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cai.errors import InputError
from cai.models.local.logprobs import TokenRow
from cai.models.local.machine import precision_on
from cai.models.local.upstream import dequantised, four_bit_layers
from cai.models.local.workbench import LoraSpec, ModelSpec, open_workbench
from cai.models.protocol import ChoiceRequest, Request, Sampling
from cai.records import Message

ROWS = [TokenRow((5, 6, 7, 8), (20, 21, 2)), TokenRow((9, 10), (22, 23, 24, 25, 2))]


def moved(trainee) -> None:
    """An adapter that says something else than the base."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainee.parameters().items():
        if ".lora_B." in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def said(logps_N: torch.Tensor, adapter) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of their sum."""
    logps_N.sum().backward()
    return logps_N.detach(), torch.cat([p.grad.flatten() for p in adapter])


def plain_logps(model) -> torch.Tensor:
    """As transformers has them, one row at a time."""
    found = []
    for row in ROWS:
        logits_SV = model(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0].float()
        told_TV = logits_SV.log_softmax(-1)[len(row.prompt_ids) - 1 : -1]
        found.append(told_TV.gather(1, torch.tensor(row.completion_ids)[:, None])[:, 0])
    return torch.cat(found)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far two tensors lie apart, as a share of the length of the second."""
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("wanted", ["auto", "fp32", "bf16"])
def test_a_cpu_computes_in_fp32_unless_it_is_told(wanted) -> None:
    assert precision_on("cpu", wanted) == {"auto": "fp32"}.get(wanted, wanted)


def test_what_is_no_precision_is_refused_with_those_there_are(make_model) -> None:
    with pytest.raises(InputError, match=r"precision: there is no such precision, got fp16; choose auto, fp32, bf16"):
        open_workbench(ModelSpec(str(make_model()), precision="fp16"))


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_in_bf16_the_base_is_16_bits_wide_and_adapters_heads_and_log_probabilities_are_not(
    open_bench, quantization
) -> None:
    bench = open_bench(quantization, precision="bf16")
    assert bench.facts["dtype"] == "bfloat16"
    plain = {p.dtype for n, p in bench.network.model.named_parameters() if "embed" in n or "norm" in n}
    assert plain == {bench.network.dtype} == {torch.bfloat16}
    trainee, scorer = bench.trainee(None, seed=1), bench.scoring_trainee(None, seed=1)
    own = {p.dtype for role in (trainee, scorer) for p in role.parameters().values()}
    logps, scores = trainee.policy_logps(ROWS).logps_BT, scorer.scores(ROWS)
    assert own == {logps.dtype, scores.dtype} == {torch.float32}
    (logps.sum() + scores.sum()).backward()
    assert {p.grad.dtype for role in (trainee, scorer) for p in role.parameters().values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Gemma2", "Cohere"])
def test_in_bf16_passes_are_as_close_to_fp32_as_those_of_transformers_and_peft(open_bench, make_model, kind, tmp_path):
    """How much rounding costs depends on the weights; what it costs plain transformers on the same is the measure."""
    told = {}
    for precision in ("fp32", "bf16"):
        bench = open_bench("none", make_model(kind), precision=precision)
        assert bench.network.decodes and bench.network.packs and bench.network.narrows
        trainee = bench.trainee(None, seed=1)
        moved(trainee)
        trainee.save(tmp_path)
        logps = trainee.policy_logps(ROWS)
        told[precision] = said(logps.logps_BT[logps.mask_BT], trainee.parameters().values())
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(make_model(kind), dtype=torch.bfloat16), tmp_path, is_trainable=True
    )
    adapter = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    told["plain"] = said(plain_logps(plain.eval()), [adapter[name] for name in sorted(adapter)])
    for ours, theirs, exact in zip(told["bf16"], told["plain"], told["fp32"], strict=True):
        assert 0 < apart(ours, exact) < 1.5 * apart(theirs, exact)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_bf16_a_fresh_policy_equals_its_reference_to_the_last_bit(open_bench, quantization) -> None:
    trainee = open_bench(quantization, precision="bf16").trainee(None, seed=1)
    assert torch.equal(trainee.policy_logps(ROWS).logps_BT.detach(), trainee.reference_logps(ROWS).logps_BT)


def test_a_copy_of_four_bits_is_in_bf16_exactly_what_bitsandbytes_computes_with(open_bench) -> None:
    bench = open_bench("nf4", precision="bf16")
    for layer in four_bit_layers(bench.network.model):
        x_NI = torch.eye(layer.in_features, dtype=torch.bfloat16)
        copied_NO = layer.forward(x_NI)
        del layer.forward
        assert torch.equal(copied_NO, layer.forward(x_NI))
        assert torch.equal(copied_NO.T.float(), dequantised(layer))


@pytest.mark.parametrize("dense", [True, False])
def test_in_bf16_gradients_before_generating_equal_gradients_after(open_bench, dense) -> None:
    """The trap of docs/decisions/bitsandbytes-trap.md is a kernel for bf16."""
    bench = open_bench("nf4", precision="bf16")
    for layer in [] if dense else four_bit_layers(bench.network.model):
        del layer.forward
    trainee, told = bench.trainee(None, seed=1), []
    moved(trainee)
    for _ in range(2):
        trainee.policy_logps(ROWS).sums().sum().backward()
        told.append({name: p.grad.clone() for name, p in trainee.parameters().items()})
        for parameter in trainee.parameters().values():
            parameter.grad = None
        bench.view().generate([Request((Message("user", "hello"),), Sampling(max_new_tokens=5))])
    assert all(torch.equal(told[0][name], told[1][name]) for name in told[0])
    assert max(float(gradient.abs().max()) for gradient in told[0].values()) > 1e-2


def test_in_bf16_an_adapter_says_the_same_through_its_dense_copy(open_bench, tmp_path) -> None:
    bench = open_bench("nf4", precision="bf16")
    trainee = bench.trainee(None, seed=1)
    moved(trainee)
    trainee.save(tmp_path)
    bench.release(trainee)
    view = bench.view(tmp_path)
    asked = [ChoiceRequest((Message("user", f"say {n}"),), ("yes", "no")) for n in range(4)]
    copied = view.choose(asked)
    replica = bench._bench.replicas._held[view._adapter]
    assert {weight.dtype for weight in replica.dense.values()} == {torch.bfloat16}
    bench._bench.replicas.allow(0)
    for ours, theirs in zip(copied, view.choose(asked), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, rel=0.03)


def test_fp32_on_a_cpu_is_what_nothing_said_is_to_the_last_bit(open_bench) -> None:
    """Parity mode changes nothing where fp32 was computed in already."""
    told = []
    for precision in ("auto", "fp32"):
        trainee = open_bench("nf4", lora=LoraSpec(rank=4), precision=precision).trainee(None, seed=1)
        moved(trainee)
        logps_BT = trainee.policy_logps(ROWS).logps_BT
        logps_BT.sum().backward()
        told.append([logps_BT.detach(), *(p.grad for p in trainee.parameters().values())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*told, strict=True))
