"""The kernels of `kernels.c`, for what torch's operations do slowly on a CPU, on contiguous fp32 tensors.

The two lanes of a pass use them (`lanes`), where the machine has a compiler and what it made calculates as torch does.
Smaller passes would gain little, and keep to torch.

Shapes: S positions, H query heads, G key heads, D head width, N rows.
"""

import ctypes
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from cai.models.local.compiled import library

WIDE, TILE = 16, 32
"""What the width of a row, and that of a head, have to be multiples of, on every processor that the source is for."""
SAME = 1e-5
_BYTES = 4
_POINTER, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_TAKEN = {
    "attend": [_POINTER] * 6 + [_NUMBER] * 2,
    "attend_back": [_POINTER] * 10 + [_NUMBER] * 2,
    "gated": [_NUMBER] + [_POINTER] * 3,
    "gated_back": [_NUMBER] + [_POINTER] * 5,
    "normed": [_NUMBER, _NUMBER, _POINTER, _POINTER, _REAL, _POINTER, _POINTER],
    "normed_back": [_NUMBER, _NUMBER] + [_POINTER] * 5,
    "turned": [_NUMBER] * 3 + [_POINTER] * 4,
    "odds": [_NUMBER] * 3 + [_POINTER] * 4,
}
_PASS = struct.Struct("PPP qqqqq f")
"""The source's structure of the same name."""
_here = threading.local()


def kernels() -> "Kernels | None":
    """Those that this thread uses now."""
    return getattr(_here, "kernels", None)


@contextmanager
def used(found: "Kernels | None") -> Iterator[None]:
    """Within, this thread uses them."""
    before = kernels()
    _here.kernels = found
    try:
        yield
    finally:
        _here.kernels = before


@cache
def machine_kernels() -> "Kernels | None":
    """Those of this machine, if it has any."""
    made = library(Path(__file__).with_name("kernels.c"))
    if made is None:
        return None
    found = Kernels(made)
    return found if _agrees(found) else None


@dataclass(frozen=True, slots=True)
class Look:
    """Which positions look at which: of each text where its keys lie, and where its queries, the last of those."""

    counts_n2: Tensor
    keys: Tensor
    queries: Tensor
    scale: float
    window: int | None

    @classmethod
    def of(
        cls, keys: Sequence[Sequence[int]], queries: Sequence[Sequence[int]], scale: float, window: int | None
    ) -> "Look":
        counts = torch.tensor([[len(each), len(own)] for each, own in zip(keys, queries, strict=True)])
        key_places, query_places = (torch.tensor([at for each in given for at in each]) for given in (keys, queries))
        return cls(counts, key_places, query_places, scale, window)

    def described(self, query_SHD: Tensor, key_SGD: Tensor) -> bytes:
        _, H, D = query_SHD.shape
        lie = [each.data_ptr() for each in (self.counts_n2, self.keys, self.queries)]
        return _PASS.pack(*lie, len(self.counts_n2), H, key_SGD.shape[1], D, self.window or 0, self.scale)


class Kernels:
    def __init__(self, made: ctypes.CDLL) -> None:
        for name, taken in _TAKEN.items():
            function = getattr(made, f"cai_{name}")
            function.argtypes, function.restype = taken, ctypes.c_int if "attend" in name else None
        self._made = made

    def attend(self, query_SHD: Tensor, key_SGD: Tensor, value_SGD: Tensor, look: Look) -> tuple[Tensor, Tensor]:
        """What each query finds, and the logarithm of the sum of its exponentials (S, H)."""
        out, levels = torch.empty_like(query_SHD), query_SHD.new_empty(query_SHD.shape[:2])
        described = look.described(query_SHD, key_SGD)
        lie = _starts(query_SHD, key_SGD, value_SGD, out, levels)

        def heads(first: int, last: int) -> None:
            _had_memory(self._made.cai_attend(described, *lie, first, last))

        _shared(heads, key_SGD.shape[1])
        return out, levels

    def attend_back(self, given: Tensor, kept: Sequence[Tensor], look: Look) -> tuple[Tensor, Tensor, Tensor]:
        """What flows back to queries, keys and values; kept are those, what was found and the levels."""
        query_SHD, key_SGD, value_SGD, out, levels = kept
        to_query, to_key, to_value = torch.empty_like(query_SHD), torch.zeros_like(key_SGD), torch.zeros_like(value_SGD)
        described = look.described(query_SHD, key_SGD)
        lie = _starts(query_SHD, key_SGD, value_SGD, out, levels, given, to_query, to_key, to_value)

        def heads(first: int, last: int) -> None:
            _had_memory(self._made.cai_attend_back(described, *lie, first, last))

        _shared(heads, key_SGD.shape[1])
        return to_query, to_key, to_value

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up"""
        out = torch.empty_like(up)
        lie = _starts(gate, up, out)
        _shared(lambda a, b: self._made.cai_gated((b - a) * WIDE, *_from(a * WIDE, lie)), up.numel() // WIDE)
        return out

    def gated_back(self, given: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
        lie = _starts(given, gate, up, to_gate, to_up)
        _shared(lambda a, b: self._made.cai_gated_back((b - a) * WIDE, *_from(a * WIDE, lie)), up.numel() // WIDE)
        return to_gate, to_up

    def normed(self, x: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """x · rate · weight with rate = 1 / √(mean x² + ε), and the rates."""
        width, out, rates = len(weight_D), torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)

        def rows(a: int, b: int) -> None:
            (own, to), (rate,) = _from(a * width, _starts(x, out)), _from(a, _starts(rates))
            self._made.cai_normed(b - a, width, own, weight_D.data_ptr(), epsilon, to, rate)

        _shared(rows, rates.numel())
        return out, rates

    def normed_back(self, given: Tensor, x: Tensor, weight_D: Tensor, rates: Tensor) -> Tensor:
        width, to_x = len(weight_D), torch.empty_like(x)

        def rows(a: int, b: int) -> None:
            (due, own, to), (rate,) = _from(a * width, _starts(given, x, to_x)), _from(a, _starts(rates))
            self._made.cai_normed_back(b - a, width, due, own, weight_D.data_ptr(), rate, to)

        _shared(rows, rates.numel())
        return to_x

    def turned(self, x_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        """x · cos + (−second half, first half of x) · sin"""
        (_, heads, width), out = x_NHD.shape, torch.empty_like(x_NHD)

        def rows(a: int, b: int) -> None:
            (own, to) = _from(a * heads * width, _starts(x_NHD, out))
            self._made.cai_turned(b - a, heads, width, own, *_from(a * width, _starts(cos_ND, sin_ND)), to)

        _shared(rows, len(x_NHD))
        return out

    def odds(self, logits_NT: Tensor, top_N1: Tensor, total_N1: Tensor) -> Tensor:
        """Exponentials in the logits' place, beside the largest of this tile and those before; `top_N1` and `total_N1`
        go on. What earlier tiles' sums shrink by. Rows of logits may lie apart."""
        shrunk_N1, stride = torch.empty_like(top_N1), logits_NT.stride(0)
        lie = _starts(top_N1, total_N1, shrunk_N1)

        def rows(a: int, b: int) -> None:
            (own,) = _from(a * stride, [logits_NT.data_ptr()])
            self._made.cai_odds(b - a, logits_NT.shape[1], stride, own, *_from(a, lie))

        _shared(rows, len(logits_NT))
        return shrunk_N1


def _starts(*tensors: Tensor) -> list[int]:
    assert all(each.is_contiguous() and each.dtype == torch.float32 for each in tensors)
    return [each.data_ptr() for each in tensors]


def _from(number: int, starts: Sequence[int]) -> list[int]:
    return [start + number * _BYTES for start in starts]


def _had_memory(status: int) -> None:
    if status:
        raise MemoryError("no memory for a head's keys and scores")


def _shared(work: Callable[[int, int], object], count: int) -> None:
    """A call for each of this thread's share of torch's threads, with from where to where it does what."""
    parts = min(torch.get_num_threads(), count)
    if parts == 1:
        work(0, count)
        return
    ends = [count * k // parts for k in range(parts + 1)]
    for done in [_pool().submit(work, *each) for each in pairwise(ends)]:
        done.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="cai-kernel")


def _agrees(found: Kernels) -> bool:
    """Everything against torch."""
    pairs = [*_looks(found), *_steps(found)]
    return all((ours - theirs).norm() <= SAME * theirs.norm() for ours, theirs in pairs)


def _looks(found: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    """Of two texts with one beginning, through a window: what comes of them and what flows back."""
    heads, groups, window, shared, scale = 4, 2, 33, 40, 0.1
    texts = [list(range(50)), [*range(shared), *range(50, 70)]]
    q, k, v, given = _drawn(*((70, each, TILE) for each in (heads, groups, groups, heads)))
    parts = []
    with torch.enable_grad():
        for text, first in zip(texts, (0, shared), strict=True):
            at = torch.arange(len(text))
            sees = (at <= at[first:, None]) & (at > at[first:, None] - window)
            asks, holds, says = (x[text].transpose(0, 1) for x in (q, k, v))
            holds, says = (x.repeat_interleave(heads // groups, 0) for x in (holds, says))
            out = functional.scaled_dot_product_attention(asks[:, first:], holds, says, sees, scale=scale)
            parts.append(out.transpose(0, 1))
        theirs = torch.cat(parts)
        back = torch.autograd.grad(theirs, (q, k, v), given)
    look = Look.of(texts, [texts[0], texts[1][shared:]], scale, window)
    out, levels = found.attend(q.detach(), k.detach(), v.detach(), look)
    yield out, theirs.detach()
    kept = [each.detach() for each in (q, k, v, out, levels)]
    yield from zip(found.attend_back(given.detach(), kept, look), back, strict=True)


def _steps(found: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    """Of everything between products."""
    gate, up, x, given, weight = _drawn((9, 48), (9, 48), (9, 48), (9, 48), (48,))
    due, factors = given.detach(), weight.detach()
    with torch.enable_grad():
        gated, normed = functional.silu(gate) * up, functional.rms_norm(x, (48,), factors, 1e-5)
        to_gate, to_up, to_x = torch.autograd.grad([gated, normed], (gate, up, x), [due, due])
    with torch.no_grad():
        yield found.gated(gate, up), gated
        yield from zip(found.gated_back(due, gate, up), (to_gate, to_up), strict=True)
        ours, rates = found.normed(x, factors, 1e-5)
        yield ours, normed
        yield found.normed_back(due, x, factors, rates), to_x
        heads, cos, sin = (each.detach() for each in _drawn((9, 2, TILE), (9, TILE), (9, TILE)))
        halves = torch.cat([-heads[..., TILE // 2 :], heads[..., : TILE // 2]], -1)
        yield found.turned(heads, cos, sin), heads * cos[:, None] + halves * sin[:, None]
        top, total = torch.full((9, 1), -torch.inf), torch.zeros(9, 1)
        for logits in x.clone().split(WIDE, 1):
            found.odds(logits, top, total)
        yield (top + total.log())[:, 0], x.logsumexp(1)


def _drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [(3 * torch.randn(shape, generator=draw)).requires_grad_() for shape in shapes]
