"""What fits where: cards by their size, the nearest setting that fits, and the refusal of what does not.

How much is needed is `memory`'s; how much is free, `machine`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cai.errors import InputError
from cai.models.local.memory import (
    GIB,
    REPLICA_SHARE,
    Device,
    Generating,
    Judging,
    PhaseNeed,
    Setup,
    Training,
    Work,
    keeps_dense_copies,
    need,
)
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import ModelSpec, Quantization

CARDS = (8, 16, 24, 48, 80)
"""Common sizes of a GPU's memory, in GB as they are sold."""
USABLE = 0.95
"""The share of a card that a process can count on: the driver takes some, and an allocator leaves gaps."""
SHORTEST = 256
"""Shorter sequences than these are no advice."""
_LIGHTER: dict[Quantization, tuple[Quantization, ...]] = {
    "none": ("none", "int8", "nf4"),
    "int8": ("int8", "nf4"),
    "nf4": ("nf4",),
}
# How far a change is from what was asked: fewer rows at once and computing again change no result, other weights or
# shorter texts do.
_FEWER_ROWS, _AGAIN, _OTHER_WEIGHTS, _SHORTER = 1, 3, 8, 12


@dataclass(frozen=True, slots=True)
class Nearest:
    """The least that has to change for a phase to fit, in words, and what it needs then."""

    changes: tuple[str, ...]
    bytes: int


def room_of(card: int) -> int:
    """Bytes that a process can use of a card of this many GB."""
    return int(card * GIB * USABLE)


def fits(needed: int, card: int) -> bool:
    return needed <= room_of(card)


def cards_for(needed: int) -> tuple[int, ...]:
    """The usual cards on which this many bytes fit."""
    return tuple(card for card in CARDS if fits(needed, card))


def smallest_for(needed: int) -> int:
    """The smallest of the usual cards on which this many bytes fit, or the largest of all."""
    return min(cards_for(needed), default=max(CARDS))


def setup_for(spec: ModelSpec, shape: Shape, device: Device, memory: int) -> Setup:
    """The model as the loader holds it on this device; `memory` is all that a CPU's machine has. A GPU's replicas take
    only of what is left, so they are no need."""
    setup = Setup(shape, spec.quantization, device, spec.lora, precision=spec.precision)
    if device == "cuda":
        return setup
    dense = spec.quantization == "nf4" and keeps_dense_copies(shape.bound * setup.width, memory)
    replicas = 0 if spec.quantization == "int8" else memory // REPLICA_SHARE // (setup.width * shape.linear)
    return replace(setup, dense_copies=dense, replicas=replicas)


def setup_here(spec: ModelSpec, shape: Shape, device: str) -> Setup:
    """The same on a device of this machine, which knows what it computes in."""
    from cai.models.local.machine import precision_on, total_memory

    kind: Device = "cpu" if device == "cpu" else "cuda"
    return setup_for(replace(spec, precision=precision_on(device, spec.precision)), shape, kind, total_memory())


def nearest(setup: Setup, work: Work | None, room: int) -> Nearest | None:
    """The nearest setting that fits; None where nothing does."""
    found: tuple[int, Nearest] | None = None
    for quantization in _LIGHTER[setup.quantization]:
        lighter = replace(setup, quantization=quantization)
        weights = () if quantization == setup.quantization else (f"model.quantization: {quantization}",)
        far = _OTHER_WEIGHTS * _LIGHTER[setup.quantization].index(quantization)
        for steps, changes, smaller in _smaller(work):
            taken = need(lighter, smaller).bytes
            if taken <= room and (found is None or far + steps < found[0]):
                found = far + steps, Nearest((*weights, *changes), taken)
    return found[1] if found else None


def require(place: str, where: str, needed: PhaseNeed, room: int, remedy: Nearest | None) -> None:
    """Refuse what needs more than there is room for."""
    if needed.bytes <= room:
        return
    largest = sorted(needed.parts, key=lambda part: -part.bytes)[:3]
    told = ", ".join(f"{part.name} {gib(part.bytes)}" for part in largest)
    problem = f"{needed.verb} needs {gib(needed.bytes)} on {where} ({told})"
    raise InputError(place, problem, f"{gib(room)}", f"{advice(remedy)}; --no-memory-check tries it all the same")


def advice(found: Nearest | None) -> str:
    if found is None:
        return "no setting makes it fit: take a smaller model, or a larger device"
    if not found.changes:
        return "it fits as it is"
    return f"set {', and '.join(found.changes)}, which needs {gib(found.bytes)}"


def require_loadable(spec: ModelSpec, folder: Path, device: str) -> None:
    """Refuse a model that does not fit where it is to be loaded. One whose sizes cannot be told is let through."""
    from cai.models.local.machine import free_memory

    try:
        shape = shape_of(folder)
    except InputError:
        return
    setup = setup_here(spec, shape, device)
    # Interpreter and context are there already, and the free memory is without them.
    wanted = need(setup)
    room = free_memory(device) + wanted.of("before loading")
    if wanted.bytes > room:
        require(spec.base, device, wanted, room, nearest(setup, None, room))


def gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / 1024**2:.0f} MiB"


def _smaller(work: Work | None) -> Iterator[tuple[int, tuple[str, ...], Work | None]]:
    """The same work with fewer rows at once and with shorter sequences: how far that is, in words, and the work."""
    match work:
        case None:
            yield 0, (), None
        case Training():
            yield from _smaller_training(work)
        case Generating():
            for i, rows in enumerate(_halves(work.rows, 1)):
                for k, reply in enumerate(_halves(work.reply, min(SHORTEST, work.reply))):
                    changes = [f"{'batch_size × samples' if work.within else 'chunk'}: {rows}"] if i else []
                    changes += [f"max_new_tokens: {reply}"] if k else []
                    yield i * _FEWER_ROWS + k * _SHORTER, tuple(changes), replace(work, rows=rows, reply=reply)
        case Judging():
            for i, rows in enumerate(_halves(work.rows, 1)):
                yield i * _FEWER_ROWS, (f"chunk: {rows}",) if i else (), replace(work, rows=rows)


def _smaller_training(work: Training) -> Iterator[tuple[int, tuple[str, ...], Work]]:
    for again in (False, True) if not work.checkpointing else (True,):
        for i, rows in enumerate(_halves(work.rows, 2 if work.method in ("dpo", "reward") else 1)):
            for k, length in enumerate(_halves(work.length, min(SHORTEST, work.length))):
                scored = max(1, work.scored * rows * length // (work.rows * work.length))
                shared = work.shared * length // work.length
                smaller = replace(work, rows=rows, length=length, scored=scored, checkpointing=again, shared=shared)
                changes = ["checkpointing: true"] if again and not work.checkpointing else []
                changes += [f"micro_tokens: {smaller.tokens}"] if (i or k) else []
                changes += [f"sequences of at most {length} tokens"] if k else []
                far = i * _FEWER_ROWS + k * _SHORTER + (_AGAIN if again else 0)
                yield far, tuple(changes), smaller


def _halves(count: int, least: int) -> list[int]:
    found = [count]
    while found[-1] // 2 >= least:
        found.append(found[-1] // 2)
    return found
