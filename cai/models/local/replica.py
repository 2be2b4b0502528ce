"""Dense copies for generation: what the base's 4 bits say plus a frozen adapter, added once and not at every token.

A replica is a cache. The 4-bit weights and the adapter stay what they are, nothing is merged in place, and training
never sees it. It is made when an adapter first generates, where memory allows; the last few are kept.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional
from transformers import PreTrainedModel

from cai.models.local.upstream import dequantised, dtype_of, four_bit_layers

_log = logging.getLogger(__name__)


class Replicas:
    """Dense copies by adapter, within a budget of bytes; with none, generation runs through the layers themselves."""

    def __init__(self, model: PreTrainedModel, budget: int) -> None:
        self._model = model
        self._budget = budget
        self._held: OrderedDict[str, _Copy] = OrderedDict()
        self._made_so_far = 0

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[int | None]:
        """Run with the adapter's dense copy, if there is room for one, and tell its number: every copy has another. The
        adapter itself must be active as well."""
        copy = self._of(adapter)
        dense = {} if copy is None else copy.dense
        before = {layer: layer.forward for layer in dense}
        for layer, weight in dense.items():
            layer.forward = _Dense(weight, _base(layer).bias)
        try:
            yield None if copy is None else copy.number
        finally:
            for layer, forward in before.items():
                layer.forward = forward

    def __len__(self) -> int:
        """How many copies there are."""
        return len(self._held)

    def allow(self, budget: int) -> None:
        """Hold as many bytes as this from now on; what is there is made anew."""
        self._budget = budget
        self._held.clear()

    def forget(self, adapter: str) -> None:
        self._held.pop(adapter, None)

    def clear(self) -> None:
        self._held.clear()

    def _of(self, adapter: str | None) -> "_Copy | None":
        if adapter is None or any(_base(layer).weight.dtype == torch.int8 for layer in self._layers()):
            return None
        if adapter not in self._held:
            size = self._size()
            while self._held and size * (len(self._held) + 1) > self._budget:
                self._held.popitem(last=False)
            if size > self._budget:
                return None
            try:
                self._held[adapter] = _Copy(self._made_so_far, self._made(adapter))
            except torch.OutOfMemoryError:
                # Others took the memory since the budget was set.
                self._budget = 0
                self._held.clear()
                _log.warning("generation goes on without a dense copy, which is slower: there is no memory for one")
                return None
            self._made_so_far += 1
        self._held.move_to_end(adapter)
        return self._held[adapter]

    def _layers(self) -> list[Any]:
        return [module for module in self._model.modules() if isinstance(module, LoraLayer)]

    def _size(self) -> int:
        width = dtype_of(self._model).itemsize
        return sum(layer.in_features * layer.out_features * width for layer in self._layers())

    def _made(self, adapter: str) -> dict[Any, torch.Tensor]:
        four_bit = set(map(id, four_bit_layers(self._model)))
        dtype = dtype_of(self._model)
        made = {}
        with torch.no_grad():
            for layer in self._layers():
                if adapter not in layer.lora_A:
                    continue
                base = _base(layer)
                weight = dequantised(base) if id(base) in four_bit else base.weight.float()
                made[layer] = (weight + layer.get_delta_weight(adapter).float()).to(dtype)
        return made


@dataclass(frozen=True, slots=True)
class _Copy:
    number: int
    dense: dict[Any, torch.Tensor]
    """By layer."""


class _Dense:
    """A layer's forward pass on one dense matrix."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._weight, self._bias)


def _base(layer: Any) -> Any:
    return layer.get_base_layer()
