"""Dense copies for generation: what the base's 4 bits say plus a frozen adapter, added once and not at every token.

A replica is a cache. The 4-bit weights and the adapter stay what they are, nothing is merged in place, and training
never sees it. It is made when an adapter first generates, where memory allows; the last few are kept.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional
from transformers import PreTrainedModel

from cai.models.local.upstream import compute_dtype, dequantised, four_bit_layers


class Replicas:
    """Dense copies by adapter, within a budget of bytes; with none, generation runs through the layers themselves."""

    def __init__(self, model: PreTrainedModel, budget: int) -> None:
        self._model = model
        self._budget = budget
        self._held: OrderedDict[str, dict[Any, torch.Tensor]] = OrderedDict()

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[None]:
        """Run with the adapter's dense copy, if there is room for one. The adapter itself must be active as well."""
        dense = self._of(adapter)
        before = {layer: layer.forward for layer in dense}
        for layer, weight in dense.items():
            layer.forward = _Dense(weight, _base(layer).bias)
        try:
            yield
        finally:
            for layer, forward in before.items():
                layer.forward = forward

    def forget(self, adapter: str) -> None:
        self._held.pop(adapter, None)

    def clear(self) -> None:
        self._held.clear()

    def _of(self, adapter: str | None) -> dict[Any, torch.Tensor]:
        if adapter is None or any(_base(layer).weight.dtype == torch.int8 for layer in self._layers()):
            return {}
        if adapter not in self._held:
            size = self._size()
            while self._held and size * (len(self._held) + 1) > self._budget:
                self._held.popitem(last=False)
            if size > self._budget:
                return {}
            self._held[adapter] = self._made(adapter)
        self._held.move_to_end(adapter)
        return self._held[adapter]

    def _layers(self) -> list[Any]:
        return [module for module in self._model.modules() if isinstance(module, LoraLayer)]

    def _size(self) -> int:
        width = torch.empty((), dtype=compute_dtype(self._model.device.type)).itemsize
        return sum(layer.in_features * layer.out_features * width for layer in self._layers())

    def _made(self, adapter: str) -> dict[Any, torch.Tensor]:
        four_bit = set(map(id, four_bit_layers(self._model)))
        dtype = compute_dtype(self._model.device.type)
        made = {}
        with torch.no_grad():
            for layer in self._layers():
                if adapter not in layer.lora_A:
                    continue
                base = _base(layer)
                weight = dequantised(base) if id(base) in four_bit else base.weight.float()
                made[layer] = (weight + layer.get_delta_weight(adapter).float()).to(dtype)
        return made


class _Dense:
    """A layer's forward pass on one dense matrix."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._weight, self._bias)


def _base(layer: Any) -> Any:
    return layer.get_base_layer()
