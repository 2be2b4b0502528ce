"""Parts of a layer that cost a CPU more than their arithmetic: gated units, RMS norms and the rotation of queries and
keys by their positions, forwards and backwards.

As transformers writes them, every step is an operation over all positions, whose result goes to memory and comes back.
Here all steps are done on one tile of positions before the next, so that what lies between stays in the cache, and the
way back is the derivative itself instead of one for each step, so that less is kept for it. Where the thread has
`kernels`, they do all steps at once instead. Only passes in fp32 go this way, and of those without gradients only the
ones with kernels; a module is changed only where a trial gives what its own forward pass gives.

Shapes: N positions, D width of what is normed or turned, F inner width of a gated unit, H heads.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.activations import SiLUActivation

from cai.models.local.kernels import WIDE, Kernels, kernels

TILE = 1 << 17
"""Numbers of one tile: the four tensors that a step touches lie in a CPU's second cache together."""
SAME = 1e-5
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_ROTATION = "apply_rotary_pos_emb"
"""What every architecture of transformers calls the function that turns its queries and keys."""


def fuse(model: torch.nn.Module) -> int:
    """Have the gated units, RMS norms and rotations of a model computed here; how many modules there were. For CPUs: a
    GPU would start a kernel for every step of every tile."""
    agrees: dict[tuple[type, type], bool] = {}
    found = 0
    for module in model.modules():
        _fuse_rotation(module)
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
        if not _ours(x):
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
        if not _ours(x) or self._module.weight.requires_grad:
            return self._own(x)  # type: ignore[no-any-return]
        normed: torch.Tensor = _Normed.apply(x, self._module.weight, self._module.variance_epsilon)  # type: ignore[no-untyped-call]
        return normed


def _fuse_rotation(module: Any) -> None:
    """Architectures rotate by a function beside their attention, which every model of theirs shares."""
    names = getattr(type(module).forward, "__globals__", {})
    own = names.get(_ROTATION)
    if own is not None and not isinstance(own, _Rotation) and _turns_alike(own):
        names[_ROTATION] = _Rotation(own)


class _Rotation:
    """x · cos + (−second half, first half of x) · sin, of queries and keys."""

    def __init__(self, own: Callable[..., Any]) -> None:
        self._own = own

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **also: Any
    ) -> Any:
        fit = all(each.dtype == torch.float32 and each[:, 0].shape == cos.shape == sin.shape for each in (q, k))
        if more or also or not (fit and (_ours(q) or _ours(k))):
            return self._own(q, k, cos, sin, *more, **also)
        return _Turned.apply(q, cos, sin), _Turned.apply(k, cos, sin)  # type: ignore[no-untyped-call]


def _turns_alike(own: Callable[..., Any]) -> bool:
    """Values and gradients against the architecture's own, of a rotation whose halves differ."""
    generator = torch.Generator().manual_seed(0)
    q, k, given = (torch.randn(1, 3, 5, 8, generator=generator) for _ in range(3))
    cos, sin = (torch.randn(1, 5, 8, generator=generator) for _ in range(2))
    told = []
    for each in (own, _Rotation(own)):
        inputs = [q.clone().requires_grad_(), k.clone().requires_grad_()]
        try:
            with torch.enable_grad():
                turned = torch.cat(each(*inputs, cos, sin))
        except (TypeError, RuntimeError, ValueError):
            return False
        told.append(torch.cat([turned.detach(), *torch.autograd.grad(turned, inputs, torch.cat([given, given]))]))
    return bool((told[0] - told[1]).abs().max() <= SAME * told[0].abs().max())


def _ours(x: torch.Tensor) -> bool:
    learns = x.requires_grad and torch.is_grad_enabled()
    return x.dtype == torch.float32 and (learns or kernels() is not None)


def _kernels(width: int) -> Kernels | None:
    """Those of this thread, for rows of a width."""
    return kernels() if width % WIDE == 0 else None


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
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        if found := _kernels(up.shape[-1]):
            return found.gated(gate, up)
        out = torch.empty_like(up)
        for gate_NF, up_NF, out_NF in _tiles(gate, up, out):
            torch.ops.aten.silu.out(gate_NF, out=out_NF)
            out_NF.mul_(up_NF)
        return out

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        given = given.contiguous()
        if found := _kernels(up.shape[-1]):
            return found.gated_back(given, gate, up)
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        for given_NF, gate_NF, up_NF, to_gate_NF, to_up_NF in _tiles(given, gate, up, to_gate, to_up):
            torch.mul(given_NF, up_NF, out=to_up_NF)
            torch.ops.aten.silu_backward.grad_input(to_up_NF, gate_NF, grad_input=to_gate_NF)
            torch.ops.aten.silu.out(gate_NF, out=to_up_NF)
            to_up_NF.mul_(given_NF)
        return to_gate, to_up


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
        x = x.contiguous()
        if found := _kernels(len(weight_D)):
            out, rates = found.normed(x, weight_D.contiguous(), epsilon)
            ctx.save_for_backward(x, weight_D, rates)
            return out
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
        given = given.contiguous()
        if found := _kernels(len(weight_D)):
            return found.normed_back(given, x, weight_D.contiguous(), rates), None, None
        to_x = torch.empty_like(x)
        for given_ND, x_ND, rate_N1, to_ND in _tiles(given, x, rates, to_x):
            pull_ND = given_ND * weight_D
            mean_N1 = torch.mul(pull_ND, x_ND, out=to_ND).mean(-1, keepdim=True)
            torch.mul(x_ND, mean_N1.mul_(rate_N1).mul_(rate_N1), out=to_ND)
            torch.sub(pull_ND, to_ND, out=to_ND)
            to_ND.mul_(rate_N1)
        return to_x, None, None


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(given, cos, sin.roll(sin.shape[-1] // 2, -1).neg()), None, None


def _turned(x_BHSD: torch.Tensor, cos_BSD: torch.Tensor, sin_BSD: torch.Tensor) -> torch.Tensor:
    x_NHD = x_BHSD.transpose(1, 2).flatten(0, 1)
    width = x_NHD.shape[-1]
    if found := _kernels(width // 2):
        angles = (each.reshape(-1, width).contiguous() for each in (cos_BSD, sin_BSD))
        turned = found.turned(x_NHD.contiguous(), *angles)
        return turned.view(x_BHSD.shape[0], -1, *turned.shape[1:]).transpose(1, 2)
    out = torch.empty_like(x_NHD, memory_format=torch.contiguous_format)
    half, size = width // 2, max(1, TILE // x_NHD[0].numel())
    cos_N1D, sin_N1D = (each.reshape(len(x_NHD), 1, -1) for each in (cos_BSD, sin_BSD))
    for x, cos, sin, to in zip(*(each.split(size) for each in (x_NHD, cos_N1D, sin_N1D, out)), strict=True):
        torch.mul(x, cos, out=to)
        # Two roundings, as in the architecture's own: a pass with gradients says bit for bit what one without says.
        to[..., :half].sub_(x[..., half:] * sin[..., :half])
        to[..., half:].add_(x[..., :half] * sin[..., half:])
    return out.view(x_BHSD.shape[0], -1, *out.shape[1:]).transpose(1, 2)


def _tiles(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same positions of each tensor, as many at a time as a tile of the widest holds."""
    rows = [tensor.view(-1, tensor.shape[-1]) for tensor in tensors]
    size = max(1, TILE // max(each.shape[-1] for each in rows))
    return zip(*(each.split(size) for each in rows), strict=True)
