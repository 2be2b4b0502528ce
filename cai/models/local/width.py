"""How much is generated together: as much as there is room for beside the model, in steps that the next run finds too.

The engine asks once, when the model is loaded; a plan asks the same of a machine that may be elsewhere. What a batch
takes is `memory`'s.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cai.errors import InputError
from cai.models.local.fitting import setup_here
from cai.models.local.memory import (
    GPU_REPLICA_SHARE,
    KEPT_BYTES,
    PREFILL_TOKENS,
    Device,
    Generating,
    Judging,
    Setup,
    Training,
    cache_bytes,
    drawing_bytes,
    held_bytes,
    pass_bytes,
    step_bytes,
)
from cai.models.local.shape import shape_of
from cai.models.local.spec import ModelSpec

Asked = TypeVar("Asked", Generating, Judging, Training, Generating | Judging | Training)


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How much is generated together, at most."""

    rows: int = 64
    tokens: int = 65_536
    """Positions of all rows, with room for the longest of them in each."""

    def halved(self) -> "AtOnce":
        return AtOnce(self.rows // 2, self.tokens // 2)

    def of(self, work: Asked) -> Asked:
        """The same work with no more rows than are generated together; anything else as it is."""
        if not isinstance(work, Generating):
            return work
        return replace(work, rows=max(1, min(work.rows, self.rows, self.tokens // work.length)))


USUAL = AtOnce()
MOST: dict[Device, AtOnce] = {"cpu": USUAL, "cuda": AtOnce(128, 131_072)}
"""However much memory there is."""
LEAST_TOKENS = 2048
"""Fewer are not planned for: an estimate may err, and a batch that does not fit is backed off from."""
LEAST = AtOnce(tokens=LEAST_TOKENS)
WIDTH_SHARE = 0.85
"""The share of what is left beside the model that generating takes: allocators leave gaps, and others come and go."""


def at_once(setup: Setup, room: int) -> AtOnce:
    """How much can be generated together in so many bytes beside the model, in steps coarse enough for the next run on
    this machine to find the same."""
    most = MOST[setup.device]
    under_way = max(pass_bytes(setup, PREFILL_TOKENS), drawing_bytes(setup, most.rows))
    rest = int(WIDTH_SHARE * room) - KEPT_BYTES - under_way - step_bytes(setup, most.rows)
    fitting = rest * setup.shape.layers // (cache_bytes(setup) * (setup.shape.layers + 1))
    tokens = LEAST_TOKENS
    while tokens < most.tokens and 2 * tokens <= fitting:
        tokens *= 2
    return AtOnce(most.rows, min(tokens, most.tokens))


def width_in(setup: Setup, room: int) -> AtOnce:
    """How much will be generated together where the model, and all that is done with it, has so many bytes."""
    left = room - held_bytes(setup)
    replica = setup.width * setup.shape.linear
    allowed = setup.replicas * replica if setup.device == "cpu" else left // GPU_REPLICA_SHARE
    return at_once(setup, left - (replica if replica <= allowed else 0))


def width_beside(spec: ModelSpec, folder: Path, device: str, replicas: int) -> AtOnce:
    """How much can be generated together, now that the model is loaded, with one dense replica if `replicas` bytes have
    room for one. Where the model's sizes cannot be told it is as usual, and what does not fit is backed off from."""
    from cai.models.local.machine import free_memory

    try:
        shape = shape_of(folder)
    except InputError:
        return USUAL
    setup = setup_here(spec, shape, device)
    replica = setup.width * shape.linear
    return at_once(setup, free_memory(device) - (replica if replica <= replicas else 0))
