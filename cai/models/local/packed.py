"""Attention of rows laid end to end: no padding, and a prompt that several rows go on from is read once.

Shapes: S packed positions, H query heads, G key heads, D head width; n entries of a group, Q queries and C keys of its
longest entry.

transformers hands a registered attention function the queries, keys and values of a layer; everything else in a layer
treats positions alone, so it never sees padding. Which texts a pass holds is `layout`'s choice; how gradients flow is
autograd's: the keys of a shared prompt collect them from every branch. Cached decoding has its own attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME, KEYWORD = "cai_packed", "cai_packing"
_Places = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]
MAX_WASTE = {"cpu": 1 << 12, "cuda": 1 << 14}
"""Score cells that an entry may waste by joining a longer one; a kernel call of its own costs about as much."""
MAX_GROUP = 1 << 22
"""Score cells of one group, so that what it gathers stays small."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A text of a pass: packed positions in reading order, of which the last `queries` are computed here."""

    keys: tuple[int, ...]
    queries: int

    @property
    def cells(self) -> int:
        return len(self.keys) * self.queries

    @property
    def causal(self) -> bool:
        return self.queries == len(self.keys)


class Attends(Protocol):
    """What a layer's queries, keys and values are handed to, (S, H, D) and (S, G, D)."""

    def attend(
        self, query_SHD: torch.Tensor, key_SGD: torch.Tensor, value_SGD: torch.Tensor, how: "How"
    ) -> torch.Tensor: ...


class Packing:
    """The entries of one pass as gathers that every layer shares. With `asked`, queries are those positions' alone."""

    def __init__(
        self, entries: Sequence[Entry], size: int, device: torch.device, asked: Sequence[int] | None = None
    ) -> None:
        self._groups = [_Group(group, device) for group in _grouped(entries, MAX_WASTE[device.type])]
        own = np.arange(size) if asked is None else np.asarray(asked)
        number = np.full(size, -1)
        number[own] = np.arange(len(own))
        padded = [(group.queries(), group.keys()) for group in self._groups]
        (asking, real), (keys, read) = (_joined([each[k] for each in padded]) for k in range(2))
        queries = number[asking]
        self._queries = _Gather.of(queries, real, len(own), device)
        self._keys = _Gather.of(keys, read, size, device)
        self._counts = [(len(asking), len(keys)) for (asking, _), (keys, _) in padded]
        self._unread = torch.from_numpy(np.flatnonzero(~real)).to(device)
        """Queries that only pad a group: nobody reads what comes of them."""
        assert (np.bincount(queries[real], minlength=len(own)) == 1).all(), "each position is one entry's query"
        place = np.empty(len(own), dtype=np.int64)
        place[queries[real]] = np.flatnonzero(real)
        self._place_S = torch.from_numpy(place).to(device)

    def attend(
        self, query_SHD: torch.Tensor, key_SGD: torch.Tensor, value_SGD: torch.Tensor, how: "How"
    ) -> torch.Tensor:
        counts = [list(each) for each in zip(*self._counts, strict=True)]
        queries = self._queries(query_SHD).split(counts[0])
        keys, values = (self._keys(tensor).split(counts[1]) for tensor in (key_SGD, value_SGD))
        outs = [
            group.attend(query, key, value, how)
            for group, query, key, value in zip(self._groups, queries, keys, values, strict=True)
        ]
        out: torch.Tensor = _Placed.apply(  # type: ignore[no-untyped-call]
            outs[0] if len(outs) == 1 else torch.cat(outs), self._place_S, self._queries.index, self._unread
        )
        return out


@dataclass(frozen=True, slots=True)
class _Gather:
    """Copies of positions, each position once at least, in an order of its own; gradients are added up in runs, which
    is exact, repeatable and far quicker than a scatter. What pads a group has none."""

    index: torch.Tensor
    first_S: torch.Tensor
    """Where each position was copied to first."""
    runs: tuple[tuple[int, int, int], ...]
    """Consecutive positions that were copied once more: from, to, and where to."""

    @classmethod
    def of(cls, positions: _Places, real: _Flags, size: int, device: torch.device) -> "_Gather":
        places = np.flatnonzero(real)
        found, first = np.unique(positions[places], return_index=True)
        assert len(found) == size, "each position is copied once at least"
        again = np.delete(places, first)
        ends = np.flatnonzero((np.diff(again) != 1) | (np.diff(positions[again]) != 1)) + 1
        runs = [(int(positions[run[0]]), int(positions[run[-1]]) + 1, int(run[0]))
                for run in np.split(again, ends) if len(run)]  # fmt: skip
        index, firsts = (torch.from_numpy(each).to(device) for each in (positions, places[first]))
        return cls(index, firsts, tuple(runs))

    def __call__(self, tensor_SHD: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = _Gathered.apply(tensor_SHD, self)  # type: ignore[no-untyped-call]
        return gathered


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor_SHD: torch.Tensor, gather: _Gather) -> torch.Tensor:
        ctx.gather = gather
        return tensor_SHD.index_select(0, gather.index)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, None]:
        gather: _Gather = ctx.gather
        gradient_SHD = given.index_select(0, gather.first_S)
        for start, end, place in gather.runs:
            gradient_SHD[start:end] += given[place : place + end - start]
        return gradient_SHD, None


class _Placed(torch.autograd.Function):
    """What came of all groups' queries, back at their positions; what padded them gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, outs: torch.Tensor, place_S: torch.Tensor, queries: torch.Tensor, unread: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(queries, unread)
        return outs.index_select(0, place_S)

    @staticmethod
    def backward(ctx: Any, given_SHD: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        queries, unread = ctx.saved_tensors
        return given_SHD.index_select(0, queries).index_fill_(0, unread, 0.0), None, None, None


@dataclass(frozen=True, slots=True)
class How:
    scale: float
    window: int | None
    softcap: float | None


@dataclass(slots=True)
class _Group:
    """Entries of like size, padded for attention alone."""

    entries: Sequence[Entry]
    device: torch.device
    length: int = field(init=False)
    most: int = field(init=False)
    causal: bool = field(init=False)
    """Queries and keys are the same positions, so that what pads them lies behind all that is read."""
    _masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.length = max(len(entry.keys) for entry in self.entries)
        self.most = max(entry.queries for entry in self.entries)
        self.causal = all(entry.causal for entry in self.entries)

    def queries(self) -> tuple[_Places, _Flags]:
        """The positions of all entries' queries, each filled up with its last one to the length of the longest, and
        which of them are an entry's own."""
        return _filled_up([entry.keys[len(entry.keys) - entry.queries :] for entry in self.entries], self.most)

    def keys(self) -> tuple[_Places, _Flags]:
        return _filled_up([entry.keys for entry in self.entries], self.length)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, how: How) -> torch.Tensor:
        query, key, value = (
            tensor.view(len(self.entries), -1, *tensor.shape[1:]).transpose(1, 2) for tensor in (queries, keys, values)
        )
        seen = self.mask(how.window)
        if how.softcap is not None:
            out = _capped(query, key, value, seen, how)
        else:
            grouped = key.shape[1] != query.shape[1]
            if grouped and query.device.type == "cpu":
                share = query.shape[1] // key.shape[1]
                key, value, grouped = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1), False
            out = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=seen, is_causal=seen is None, scale=how.scale, enable_gqa=grouped
            )
        return out.transpose(1, 2).reshape(-1, *queries.shape[1:])

    def mask(self, window: int | None) -> torch.Tensor | None:
        """True where a query sees a key, (n, 1, Q, C); nothing where it is plainly causal. What stands in place of
        missing queries sees its own copy of a key, so that no row of scores is empty."""
        window = window if window is not None and window < self.length else None
        if window not in self._masks:
            self._masks[window] = None if self.causal and window is None else self._seen(window)
        return self._masks[window]

    def _seen(self, window: int | None) -> torch.Tensor:
        lengths_n11 = torch.tensor([len(e.keys) for e in self.entries], device=self.device)[:, None, None]
        queries_n11 = torch.tensor([e.queries for e in self.entries], device=self.device)[:, None, None]
        at_1Q1 = torch.arange(self.most, device=self.device)[None, :, None]
        at_nQ1 = lengths_n11 - queries_n11 + torch.minimum(at_1Q1, queries_n11 - 1)
        keys_11C = torch.arange(self.length, device=self.device)[None, None]
        seen_nQC = keys_11C <= at_nQ1
        if window is not None:
            seen_nQC = seen_nQC & (keys_11C > at_nQ1 - window)
        return seen_nQC[:, None]


def _filled_up(rows: Sequence[Sequence[int]], width: int) -> tuple[_Places, _Flags]:
    places_nW = np.empty((len(rows), width), dtype=np.int64)
    for k, row in enumerate(rows):
        places_nW[k, : len(row)] = row
        places_nW[k, len(row) :] = row[-1]
    real_nW = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    return places_nW.ravel(), real_nW.ravel()


def _joined(padded: Sequence[tuple[_Places, _Flags]]) -> tuple[_Places, _Flags]:
    return np.concatenate([places for places, _ in padded]), np.concatenate([real for _, real in padded])


def _grouped(entries: Sequence[Entry], waste: int) -> list[list[Entry]]:
    """Entries together that waste little of each other's room: squares with squares, branches with branches."""
    groups: list[list[Entry]] = []
    most = own = 0
    for entry in sorted(entries, key=lambda e: (e.causal, -len(e.keys), -e.queries, e.keys)):
        group = groups[-1] if groups else []
        if group and group[0].causal == entry.causal:
            wider, cells = max(most, entry.queries), own + entry.cells
            area, count = len(group[0].keys) * wider, len(group) + 1
            if count * area - cells <= count * waste and count * area <= MAX_GROUP:
                group.append(entry)
                most, own = wider, cells
                continue
        groups.append([entry])
        most, own = entry.queries, entry.cells
    return groups


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, how: How
) -> torch.Tensor:
    """Attention with soft-capped scores, which no fused kernel knows."""
    assert how.softcap is not None
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * (how.scale / how.softcap)) * how.softcap
    if seen is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(query.dtype) @ value


def attend_packed(
    module: Any,
    query_1HSD: torch.Tensor,
    key_1GSD: torch.Tensor,
    value_1GSD: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - a placeholder: the packing knows what is seen
    scaling: float | None = None,
    **also: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls for each layer; the packing comes through the model's keywords."""
    packing: Attends = also[KEYWORD]
    scale = query_1HSD.shape[-1] ** -0.5 if scaling is None else scaling
    how = How(scale, also.get("sliding_window") or getattr(module, "sliding_window", None), also.get("softcap"))
    query_SHD, key_SGD, value_SGD = (tensor[0].transpose(0, 1) for tensor in (query_1HSD, key_1GSD, value_1GSD))
    out_SHD = packing.attend(query_SHD, key_SGD, value_SGD, how)
    return out_SHD[None], None


def _no_mask(*_: object, **__: object) -> None:
    return None


AttentionInterface.register(NAME, attend_packed)
AttentionMaskInterface.register(NAME, _no_mask)
