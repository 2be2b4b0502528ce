"""Attention of rows laid end to end straight from where they lie, where the thread has kernels for it: nothing is
gathered or padded, and a prompt's keys collect what flows back to them from every branch.

Shapes: S positions, H query heads, G key heads, D head width.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cai.models.local.kernels import TILE, Kernels, Look, kernels
from cai.models.local.packed import Entry, How, Packing


class StraightPacking:
    """The entries of one pass. With `asked`, queries are those positions' alone."""

    def __init__(
        self, entries: Sequence[Entry], size: int, device: torch.device, asked: Sequence[int] | None = None
    ) -> None:
        self._entries, self._size, self._device, self._asked = entries, size, device, asked
        self._looks: dict[How, Look] = {}

    def attend(self, query_SHD: Tensor, key_SGD: Tensor, value_SGD: Tensor, how: How) -> Tensor:
        found = kernels()
        if found is None or not _fits(query_SHD, key_SGD, value_SGD, how):
            return self._gathered.attend(query_SHD, key_SGD, value_SGD, how)
        if how not in self._looks:
            self._looks[how] = self._look(how)
        out: Tensor = _Straight.apply(query_SHD, key_SGD, value_SGD, found, self._looks[how])  # type: ignore[no-untyped-call]
        return out

    @cached_property
    def _gathered(self) -> Packing:
        return Packing(self._entries, self._size, self._device, self._asked)

    def _look(self, how: How) -> Look:
        number = range(self._size) if self._asked is None else {place: k for k, place in enumerate(self._asked)}
        queries = [[number[at] for at in entry.keys[len(entry.keys) - entry.queries :]] for entry in self._entries]
        return Look.of([entry.keys for entry in self._entries], queries, how.scale, how.window)


def _fits(query_SHD: Tensor, key_SGD: Tensor, value_SGD: Tensor, how: How) -> bool:
    heads, keys = query_SHD.shape[1], key_SGD.shape[1]
    return (
        how.softcap is None
        and query_SHD.shape[-1] == value_SGD.shape[-1]
        and query_SHD.shape[-1] % TILE == 0
        and heads % keys == 0
        and all(each.dtype == torch.float32 for each in (query_SHD, key_SGD, value_SGD))
    )


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, found: Kernels, look: Look) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out, levels = found.attend(query, key, value, look)
        ctx.save_for_backward(query, key, value, out, levels)
        ctx.found, ctx.look = found, look
        return out

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.found.attend_back(given.contiguous(), ctx.saved_tensors, ctx.look), None, None
