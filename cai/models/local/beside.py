"""A LoRA layer's forward pass and its derivative: the base's product and the adapter's, every sum within a product.

Layers that read the same input, such as those of queries, keys and values, are computed together, forwards and
backwards: the input is read once for all of their adapters, and what flows back to it is summed up in one place.
Shapes: N positions, I inputs, O outputs of a layer, r rank, R ranks of layers that read the same.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from cai.models.local.kernels import kernels
from cai.models.local.upstream import frozen_matrix

MERGED = 512
"""Positions from which on, in a lane (`kernels`), an adapter is added to the base's weights for the pass and not to
every output: fewer would not be worth the weights' way through memory."""
_READ_THE_SAME = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""By transformers' names. Where it is not so, every call computes all of them for its own input: right, and slow."""


def compute_beside(layers: Mapping[str, Any]) -> None:
    """Have PEFT's LoRA layers, by their paths, computed here."""
    families: dict[tuple[str, int], list[_Beside]] = defaultdict(list)
    for path, layer in layers.items():
        layer.forward = _Beside(layer)
        parent, _, name = path.rpartition(".")
        for number, names in enumerate(_READ_THE_SAME):
            if name in names:
                families[parent, number].append(layer.forward)
    for members in families.values():
        if len(members) > 1:
            family = _Family(members)
            for member in members:
                member.family = family


@dataclass(frozen=True, slots=True)
class _Part:
    """What one layer adds up: x·Wᵀ + bias + s·(x·Aᵀ)·Bᵀ."""

    matrix_OI: torch.Tensor
    bias_O: torch.Tensor | None
    a_rI: torch.Tensor
    b_Or: torch.Tensor
    scaling: float

    def merged(self) -> torch.Tensor:
        """W + s·B·A, anew: nothing is ever added into the base."""
        return torch.addmm(self.matrix_OI, self.b_Or, self.a_rI, alpha=self.scaling)


@contextmanager
def idle(parent: Any, names: Sequence[str]) -> Iterator[None]:
    """Within this nobody reads what these LoRA layers of a module say, so they say zeros, which cost no product."""
    before = _idle()
    _here.idle = frozenset(getattr(parent, name, None) for name in names)
    try:
        yield
    finally:
        _here.idle = before


_here = threading.local()
"""What holds in the thread that runs a pass, and in no other."""


def _idle() -> frozenset[Any]:
    """Layers that nobody reads."""
    found: frozenset[Any] = getattr(_here, "idle", frozenset())
    return found


class _Beside:
    """A layer's forward pass with its active adapter added into the base's own output: PEFT's arithmetic."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.family: _Family | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._layer in _idle():
            return x.new_zeros(1).expand(*x.shape[:-1], self._layer.out_features)
        name = self._name()
        if name is None:
            plain: torch.Tensor = self._layer.base_layer(x)
            return plain
        part = self.part()
        if part is not None:
            # Without gradients too: a policy and its reference say the same to the last bit.
            return _joint(x, [part])[0] if self.family is None else self.family.output(self, x)
        layer = self._layer
        a, b, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        out: torch.Tensor = layer.base_layer(x)
        low = functional.linear(layer.lora_dropout[name](x.to(a.dtype)), a)
        if out.dtype != b.dtype:
            added: torch.Tensor = functional.linear(low, b) * scaling
            return out + added.to(out.dtype)
        return torch.addmm(out.flatten(0, -2), low.flatten(0, -2), b.T, alpha=scaling).view(out.shape)

    def part(self) -> _Part | None:
        """Nothing where nobody reads it, where no adapter is active, or one that is not simply a sum: behind dropout,
        or on a base in 4 bits."""
        name, layer = None if self._layer in _idle() else self._name(), self._layer
        matrix = frozen_matrix(layer.base_layer)
        if name is None or matrix is None or layer.lora_dropout[name].training:
            return None
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return _Part(matrix, layer.base_layer.bias, a, b, layer.scaling[name]) if matrix.dtype == a.dtype else None

    def _name(self) -> str | None:
        """The adapter that is active and has a part here."""
        layer = self._layer
        name: str | None = None if layer._disable_adapters else layer._active_adapter[0]  # noqa: SLF001 (see `Adapters`)
        return name if name in layer.lora_A else None


@dataclass(frozen=True, slots=True)
class _Made:
    """Outputs for an input, of layers that are yet to be called."""

    x: torch.Tensor
    outputs: dict[_Beside, torch.Tensor]


class _Family:
    """Layers that are called one after the other with the same input: the first call computes all of them, for those
    that its own thread calls next."""

    def __init__(self, members: Sequence[_Beside]) -> None:
        self._members = members
        self._own = threading.local()

    def output(self, member: _Beside, x: torch.Tensor) -> torch.Tensor:
        made: _Made | None = getattr(self._own, "made", None)
        if made is None or made.x is not x or member not in made.outputs:
            parts = {each: part for each in self._members if (part := each.part()) is not None}
            made = self._own.made = _Made(x, dict(zip(parts, _joint(x, list(parts.values())), strict=True)))
        out = made.outputs.pop(member)
        if not made.outputs:
            self._own.made = None
        return out


def _joint(x: torch.Tensor, parts: Sequence[_Part]) -> tuple[torch.Tensor, ...]:
    learnt = (*(part.a_rI for part in parts), *(part.b_Or for part in parts))
    outs: tuple[torch.Tensor, ...] = _Joint.apply(x, parts, *learnt)  # type: ignore[no-untyped-call]
    return outs


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: Sequence[_Part], *learnt: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI = _stacked([part.a_rI for part in parts])
        low_NR = x_NI @ a_RI.T
        ranks = [len(part.a_rI) for part in parts]
        merges = kernels() is not None and len(x_NI) >= MERGED
        outs = [
            functional.linear(x_NI, part.merged(), part.bias_O)
            if merges
            else functional.linear(x_NI, part.matrix_OI, part.bias_O).addmm_(low_Nr, part.b_Or.T, alpha=part.scaling)
            for part, low_Nr in zip(parts, low_NR.split(ranks, 1), strict=True)
        ]
        ctx.save_for_backward(x_NI, low_NR, *learnt)
        ctx.set_materialize_grads(False)
        ctx.parts, ctx.merges = parts, merges
        ctx.ranks, ctx.shape = ranks, x.shape
        return tuple(out_NO.view(*x.shape[:-1], -1) for out_NO in outs)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x_NI, low_NR, *learnt = ctx.saved_tensors
        count = len(given)
        given_NO = {k: each.reshape(-1, each.shape[-1]) for k, each in enumerate(given) if each is not None}
        parts: Sequence[_Part] = ctx.parts
        back_NR = _stacked([(each @ learnt[count + k]).mul_(parts[k].scaling) for k, each in given_NO.items()], 1)
        inputs_NI: torch.Tensor | None = None
        if ctx.needs_input_grad[0]:
            (first, first_NO), *others = given_NO.items()
            inputs_NI = first_NO @ (parts[first].merged() if ctx.merges else parts[first].matrix_OI)
            if not ctx.merges:
                inputs_NI.addmm_(back_NR, _stacked([learnt[k] for k in given_NO]))
            for k, each in others:
                inputs_NI.addmm_(each, parts[k].merged() if ctx.merges else parts[k].matrix_OI)
        to_learnt: list[torch.Tensor | None] = [None] * len(learnt)
        if any(ctx.needs_input_grad[2:]):
            to_a_rI = (back_NR.T @ x_NI).split([ctx.ranks[k] for k in given_NO])
            lows = low_NR.split(ctx.ranks, 1)
            for (k, each), own_rI in zip(given_NO.items(), to_a_rI, strict=True):
                to_learnt[k] = own_rI
                to_learnt[count + k] = (each.T @ lows[k]).mul_(parts[k].scaling)
        return None if inputs_NI is None else inputs_NI.view(ctx.shape), None, *to_learnt


def _stacked(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
