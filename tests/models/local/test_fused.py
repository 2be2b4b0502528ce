"""Gated units, norms and rotations in tiles against transformers' own modules: values and gradients."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.cohere import modeling_cohere
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.phi3 import modeling_phi3

from cai.models.local import fused
from cai.models.local.fused import fuse


def llama_parts(width: int = 48, inner: int = 100) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(3)
    gated, norm = (
        LlamaMLP(LlamaConfig(hidden_size=width, intermediate_size=inner, num_attention_heads=4)),
        LlamaRMSNorm(width),
    )
    torch.nn.init.uniform_(norm.weight, -1, 2)
    return gated.requires_grad_(False), norm.requires_grad_(False)


def told(module: torch.nn.Module, x: torch.Tensor, given: torch.Tensor) -> list[torch.Tensor]:
    own = x.clone().requires_grad_()
    out = module(own)
    return [out.detach(), *torch.autograd.grad(out, own, given)]


@pytest.mark.parametrize("tile", [1, 700, 1 << 17], ids=["one position", "some positions", "all positions"])
@pytest.mark.parametrize("shape", [(1, 37, 48), (2, 5, 48), (48,)])
def test_values_and_gradients_are_the_modules_own(monkeypatch, tile, shape):
    monkeypatch.setattr(fused, "TILE", tile)
    x, given = (5 * torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    for module in llama_parts():
        before = told(module, x, given)
        assert fuse(torch.nn.ModuleList([module])) == 1
        for mine, own in zip(told(module, x, given), before, strict=True):
            assert torch.allclose(mine, own, rtol=1e-5, atol=1e-6 * float(own.abs().max()))


@pytest.mark.parametrize("tile", [1, 100, 1 << 17], ids=["one position", "some positions", "all positions"])
def test_rotations_are_the_architecture_s_own(monkeypatch, tile):
    """Of several texts, with fewer keys than queries, from where projections leave them."""
    monkeypatch.setattr(fused, "TILE", tile)
    own = as_written(modeling_llama)
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 7, heads, 16, generator=draw).transpose(1, 2).requires_grad_() for heads in (4, 2))
    cos, sin = (torch.randn(2, 7, 16, generator=draw) for _ in range(2))
    found = []
    for turn in (own, fused._Rotation(own)):
        turned = turn(q, k, cos, sin)
        given = [torch.randn(each.shape, generator=torch.Generator().manual_seed(1)) for each in turned]
        found.append([*turned, *torch.autograd.grad(turned, (q, k), given)])
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (
        "_Turned" in type(turned[0].grad_fn).__name__ and "_Turned" not in type(own(q, k, cos, sin)[0].grad_fn).__name__
    )


def test_other_rotations_and_passes_are_left_to_the_architecture():
    """Cohere turns neighbours, Phi only a part of each head; half precision and passes without gradients stay."""
    assert not fused._turns_alike(as_written(modeling_cohere))
    own = as_written(modeling_llama)
    assert fused._turns_alike(own)
    turn, asked = fused._Rotation(own), torch.randn(1, 2, 5, 8).requires_grad_()
    cos, sin = torch.randn(1, 5, 8), torch.randn(1, 5, 8)

    def here(q: torch.Tensor, rotation, width: int = 8) -> bool:
        turned = rotation(q, q, cos[..., :width], sin[..., :width])[0]
        return "_Turned" in type(turned.grad_fn).__name__

    assert here(asked, turn)
    assert not here(asked.detach(), turn) and not here(asked.double(), turn)
    assert not here(asked, fused._Rotation(as_written(modeling_phi3)), width=4)


def test_models_of_one_architecture_share_one_rotation(make_model):
    for _ in range(2):
        fuse(AutoModelForCausalLM.from_pretrained(make_model("Llama"), dtype=torch.float32).requires_grad_(False))
        assert isinstance(modeling_llama.apply_rotary_pos_emb, fused._Rotation)
        assert not isinstance(as_written(modeling_llama), fused._Rotation)


def as_written(module):
    found = module.apply_rotary_pos_emb
    return found._own if isinstance(found, fused._Rotation) else found


def test_passes_without_gradients_and_other_precisions_are_left_to_the_module():
    gated, norm = llama_parts()
    x = torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(0))
    before = [gated(x), norm(x)]
    assert fuse(torch.nn.ModuleList([gated, norm])) == 2
    assert torch.equal(gated(x), before[0]) and torch.equal(norm(x), before[1])
    double = x.double().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        assert norm.double()(double).dtype == torch.float64


def test_what_computes_something_else_is_left_alone():
    other = Gemma2RMSNorm(48).requires_grad_(False)
    unlike = LlamaRMSNorm(48).requires_grad_(False)
    unlike.forward = lambda x: torch.nn.functional.rms_norm(x, (48,), 1 + unlike.weight)
    assert fuse(torch.nn.ModuleList([other, unlike])) == 0


def test_less_is_kept_for_the_way_back(make_model):
    def kept(model: torch.nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hidden = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model.model.layers[0].mlp(model.model.layers[0].input_layernorm(hidden))
        assert out.requires_grad
        return sum(sizes.values())

    model = AutoModelForCausalLM.from_pretrained(make_model("Llama"), dtype=torch.float32).requires_grad_(False)
    before = kept(model)
    assert fuse(model) == len(model.model.layers) * 3 + 1
    assert kept(model) < before
