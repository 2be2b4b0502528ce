"""A decoder's last layer, computed only at the positions that somebody asks for.

Shapes: S packed positions, N asked ones, H query heads, G key heads, D head width.

Of the last layer everybody's keys and values are needed, and nothing else but at asked positions: a reward model reads
one position of a row, a preference loss no prompt. transformers has no way to say so. So the layer's own forward pass
runs twice: over all positions as far as its keys and values, and over the asked ones from the beginning to the end,
where they look at the keys and values of the first. What nobody reads, the queries of the first and the keys and values
of the second, comes from idle layers where they have adapters.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from cai.models.local.beside import idle
from cai.models.local.layout import Layout
from cai.models.local.packed import KEYWORD, How
from cai.models.local.straight import StraightPacking

_BY_POSITION = ("position_ids", "position_embeddings", "cache_position")
"""What a layer is told of each position beside its hidden state: tensors (1, S, ...), or pairs of them."""


class NarrowPacking:
    """A packing whose last layer only the asked positions come out of."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        size = len(layout.ids)
        self._whole = StraightPacking(layout.entries, size, device)
        self.asked_N = torch.tensor(layout.asked, device=device)
        self.last = StraightPacking(layout.last, size, device, layout.asked)

    def attend(self, query_SHD: torch.Tensor, key_SGD: torch.Tensor, value_SGD: torch.Tensor, how: How) -> torch.Tensor:
        """In every layer but the last."""
        return self._whole.attend(query_SHD, key_SGD, value_SGD, how)


class LastLayer:
    """The last layer's forward pass; it is the layer's own where the packing is no narrow one."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self._forward = layer.forward
        attention: Any = getattr(layer, "self_attn", None)
        if attention is not None:
            attention.forward = _LastAttention(attention)

    def __call__(self, hidden_1SD: torch.Tensor, **also: Any) -> Any:
        packing = also.get(KEYWORD)
        if not isinstance(packing, NarrowPacking):
            return self._forward(hidden_1SD, **also)
        read = _Read()
        with suppress(_KeysAreReadError):
            self._forward(hidden_1SD, **{**also, KEYWORD: read})
        asked = {name: _of(value, packing.asked_N) if name in _BY_POSITION else value for name, value in also.items()}
        asked[KEYWORD] = _Looking(packing.last, *read.held)
        return self._forward(_of(hidden_1SD, packing.asked_N), **asked)


class _LastAttention:
    """Its attention, in which idles what nobody reads. It is within what a backward pass may compute again."""

    def __init__(self, attention: Any) -> None:
        self._attention, self._forward = attention, attention.forward

    def __call__(self, *given: Any, **also: Any) -> Any:
        packing = also.get(KEYWORD)
        unread = packing.unread if isinstance(packing, _Read | _Looking) else ()
        with idle(self._attention, unread):
            return self._forward(*given, **also)


class _KeysAreReadError(Exception):
    """Ends a layer's forward pass early."""


@dataclass(slots=True)
class _Read:
    """Takes a layer's keys and values, and asks for no more."""

    unread: ClassVar = ("q_proj",)
    held: tuple[torch.Tensor, ...] = field(default=())

    def attend(self, query_SHD: torch.Tensor, key_SGD: torch.Tensor, value_SGD: torch.Tensor, how: How) -> torch.Tensor:  # noqa: ARG002
        self.held = (key_SGD, value_SGD)
        raise _KeysAreReadError


@dataclass(frozen=True, slots=True)
class _Looking:
    """The asked positions' queries, which look at keys and values that are there already."""

    unread: ClassVar = ("k_proj", "v_proj")
    packing: StraightPacking
    key_SGD: torch.Tensor
    value_SGD: torch.Tensor

    def attend(self, query_NHD: torch.Tensor, key_NGD: torch.Tensor, value_NGD: torch.Tensor, how: How) -> torch.Tensor:  # noqa: ARG002
        return self.packing.attend(query_NHD, self.key_SGD, self.value_SGD, how)


def _of(value: Any, asked_N: torch.Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_of(each, asked_N) for each in value)
    return value if value is None else value.index_select(1, asked_N)
