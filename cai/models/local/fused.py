"""Parts of a layer that cost a CPU more than their arithmetic: gated units and RMS norms, forwards and backwards.

As transformers writes them, every step is an operation over all positions, whose result goes to memory and comes back.
Here all steps are done on one tile of positions before the next, so that what lies between stays in the cache, and the
way back is the derivative itself instead of one for each step, so that less is kept for it. Only passes with gradients
in fp32 go this way; a module is changed only where a trial gives what its own forward pass gives.

Shapes: N positions, D width of what is normed, F inner width of a gated unit.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.activations import SiLUActivation

TILE = 1 << 17
"""Numbers of one tile: the four tensors that a step touches lie in a CPU's second cache together."""
SAME = 1e-5
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def fuse(model: torch.nn.Module) -> int:
    """Have the gated units and RMS norms of a model computed here; how many there were. For CPUs: a GPU would start a
    kernel for every step of every tile."""
    agrees: dict[tuple[type, type], bool] = {}
    found = 0
    for module in model.modules():
        for kind in (_GatedForward, _NormForward):
            if not kind.fits(module):
                continue
            forward = kind(module)
            tried = (kind, type(module))
            if tried not in agrees:
                agrees[tried] = _agrees(module, forward)
            if agrees[tried]:
                module.forward = forward
                found += 1
    return found


class _GatedForward:
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, module: Any) -> None:
        self._module, self._own, self.width = module, module.forward, module.gate_proj.in_features

    @staticmethod
    def fits(module: Any) -> bool:
        linear = all(isinstance(getattr(module, name, None), torch.nn.Linear) for name in _PROJECTIONS)
        return linear and isinstance(getattr(module, "act_fn", None), SiLUActivation)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not _learns(x):
            return self._own(x)  # type: ignore[no-any-return]
        module = self._module
        product = _Gated.apply(module.gate_proj(x), module.up_proj(x))  # type: ignore[no-untyped-call]
        return module.down_proj(product)  # type: ignore[no-any-return]


class _NormForward:
    """x / √(mean x² + ε) · weight."""

    def __init__(self, module: Any) -> None:
        self._module, self._own, self.width = module, module.forward, len(module.weight)

    @staticmethod
    def fits(module: Any) -> bool:
        return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not _learns(x) or self._module.weight.requires_grad:
            return self._own(x)  # type: ignore[no-any-return]
        normed: torch.Tensor = _Normed.apply(x, self._module.weight, self._module.variance_epsilon)  # type: ignore[no-untyped-call]
        return normed


def _learns(x: torch.Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32


def _agrees(module: torch.nn.Module, forward: _GatedForward | _NormForward) -> bool:
    """Values and gradients against the module's own, on numbers that are neither all alike nor all small."""
    generator = torch.Generator().manual_seed(0)
    x_ND, given_ND = (3 * torch.randn(5, forward.width, generator=generator) for _ in range(2))
    told = []
    for each in (module.forward, forward):
        own_ND = x_ND.clone().requires_grad_()
        with torch.enable_grad():
            out = each(own_ND)
        if out.shape != x_ND.shape:
            return False
        told.append(torch.cat([out.detach(), *torch.autograd.grad(out, own_ND, given_ND)]))
    return bool((told[0] - told[1]).abs().max() <= SAME * told[0].abs().max())


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(up)
        for gate_NF, up_NF, out_NF in _tiles(gate, up, out):
            torch.ops.aten.silu.out(gate_NF, out=out_NF)
            out_NF.mul_(up_NF)
        return out

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        for given_NF, gate_NF, up_NF, to_gate_NF, to_up_NF in _tiles(given.contiguous(), gate, up, to_gate, to_up):
            torch.mul(given_NF, up_NF, out=to_up_NF)
            torch.ops.aten.silu_backward.grad_input(to_up_NF, gate_NF, grad_input=to_gate_NF)
            torch.ops.aten.silu.out(gate_NF, out=to_up_NF)
            to_up_NF.mul_(given_NF)
        return to_gate, to_up


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
        x = x.contiguous()
        out, rates = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
        for x_ND, out_ND, rate_N1 in _tiles(x, out, rates):
            torch.mul(x_ND, x_ND, out=out_ND)
            torch.mean(out_ND, -1, keepdim=True, out=rate_N1)
            rate_N1.add_(epsilon).rsqrt_()
            torch.mul(x_ND, rate_N1, out=out_ND)
            out_ND.mul_(weight_D)
        ctx.save_for_backward(x, weight_D, rates)
        return out

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """With g = given · weight and x̂ = x · rate: rate · (g − x̂ · mean(g · x̂))."""
        x, weight_D, rates = ctx.saved_tensors
        to_x = torch.empty_like(x)
        for given_ND, x_ND, rate_N1, to_ND in _tiles(given.contiguous(), x, rates, to_x):
            pull_ND = given_ND * weight_D
            mean_N1 = torch.mul(pull_ND, x_ND, out=to_ND).mean(-1, keepdim=True)
            torch.mul(x_ND, mean_N1.mul_(rate_N1).mul_(rate_N1), out=to_ND)
            torch.sub(pull_ND, to_ND, out=to_ND)
            to_ND.mul_(rate_N1)
        return to_x, None, None


def _tiles(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same positions of each tensor, as many at a time as a tile of the widest holds."""
    rows = [tensor.view(-1, tensor.shape[-1]) for tensor in tensors]
    size = max(1, TILE // max(each.shape[-1] for each in rows))
    return zip(*(each.split(size) for each in rows), strict=True)
