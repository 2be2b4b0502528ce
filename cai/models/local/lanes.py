"""Two lanes for a pass on a CPU: each computes some of its rows from beginning to end, forwards and backwards, on half
of the threads.

By itself torch shares every single operation among all threads, and after each of them they wait for one another. The
lanes meet twice, at the end of the forward pass and at the end of the backward pass: a thread that another program is
in the way of is waited for there only, and what one thread does alone in one lane leaves no core idle.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from cai.models.local.kernels import machine_kernels, used
from cai.models.local.layout import TokenRow, families

Found = TypeVar("Found")
LEAST = 12e9
"""Multiplications that a lane is worth having for. With fewer the steps of Python between them, of which only one lane
can do its own at a time, take what the threads gain."""


def there_are_lanes() -> bool:
    """Whether the threads can be shared out evenly."""
    return torch.get_num_threads() % 2 == 0


@dataclass(frozen=True, slots=True)
class Costs:
    """What a CPU takes the time of, in multiplications within large products."""

    position: float
    told: float
    """Of a token whose log-probability is told, beside its position."""
    cell: float
    """Of one position's look at another."""

    @classmethod
    def by_shape(cls, vocabulary: int, width: int, layers: int) -> "Costs":
        """A layer's matrices have about twelve squares of the width, and all that is between their products takes as
        long again; a look takes a multiplication for each number of a query and a key, and of a value, and as long
        again."""
        return cls(24 * layers * width**2, vocabulary * width, 4 * layers * width)

    def of(self, family: Sequence[TokenRow]) -> float:
        """Of rows with one prompt."""
        prompt, answers = len(family[0].prompt_ids), [len(row.completion_ids) for row in family]
        cells = prompt**2 / 2 + sum(own * (prompt + own / 2) for own in answers)
        return self.position * (prompt + sum(answers)) + self.told * sum(answers) + self.cell * cells


def parted(rows: Sequence[TokenRow], costs: Costs) -> list[list[int]]:
    """Row numbers of two lanes with about as much to do, families together; of one where two are not worth it."""
    lanes: list[list[int]] = [[], []]
    spent = [0.0, 0.0]
    found = [(costs.of([rows[i] for i in family]), family) for family in families(rows)]
    for cost, family in sorted(found, key=lambda each: (-each[0], each[1])):
        lighter = spent.index(min(spent))
        lanes[lighter] += family
        spent[lighter] += cost
    return lanes if min(spent) >= LEAST else [list(range(len(rows)))]


def both(works: Sequence[Callable[[], Tensor]], learnt: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What each of two works gives, with gradients to what is learnt where they are on."""
    if not torch.is_grad_enabled():
        return _at_once(works)
    found: tuple[Tensor, ...] = _Apart.apply(works, *learnt)  # type: ignore[no-untyped-call]
    return found


class _Apart(torch.autograd.Function):
    """Each work has a graph of its own, since a backward pass through one graph runs in one thread."""

    @staticmethod
    def forward(ctx: Any, works: Sequence[Callable[[], Tensor]], *learnt: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            ctx.outs = _at_once(works)
        ctx.learnt = learnt
        return tuple(out.detach() for out in ctx.outs)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(out: Tensor, own: Tensor) -> tuple[Tensor | None, ...]:
            grads: tuple[Tensor | None, ...] = torch.autograd.grad(out, ctx.learnt, own, allow_unused=True)
            return grads

        first, second = _at_once([partial(gradients, *each) for each in zip(ctx.outs, given, strict=True)])
        return None, *(_sum(*each) for each in zip(first, second, strict=True))


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _at_once(works: Sequence[Callable[[], Found]]) -> tuple[Found, Found]:
    """The first work in this thread, the second in the other lane's, each on half of torch's threads."""
    own, other = works
    threads, learns = torch.get_num_threads(), torch.is_grad_enabled()
    half = max(1, threads // 2)
    found_kernels = machine_kernels()

    def elsewhere() -> Found:
        # All three are settings of the thread that asks for an operation.
        torch.set_num_threads(half)
        with torch.set_grad_enabled(learns), used(found_kernels):
            return other()

    torch.set_num_threads(half)
    later = _other_lane().submit(elsewhere)
    try:
        with used(found_kernels):
            found = own()
    finally:
        wait([later])
        torch.set_num_threads(threads)
    return found, later.result()


@cache
def _other_lane() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="cai-lane")
