"""Decode steps of fixed shapes: recorded once for each shape on a GPU, and replayed from then on.

A step of a large model is some two thousand kernels, and for few rows the processor needs longer to launch them than
the GPU to run them. A recorded step is launched as one. It reads and writes the very memory that it was recorded with,
so slots, inputs and logits lie in one room that stays where it is; weights that training changes in place are read as
they are by then. Prompts are read as ever.

How a step is recorded is the only thing that differs between devices (`Record`): `graphs` does it for CUDA; a plain
call is as good for a test. Whatever goes wrong ends in the plain step, with the reason in the log: never in another
answer. What a new recording says is compared with the plain step before it counts.

Shapes: B rows, R rows of the room, V vocabulary, G key heads, D head width, P shared positions.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from cai.models.local.attention import GROWTH, Layers, Slots
from cai.models.local.fixed import Beginning, FixedPass
from cai.models.local.network import Network

MAX_RECORDED = 32
"""The least recently used recordings go first."""
LEAST_COLUMNS = 128
"""Fewer columns than this are not worth a recording of their own."""

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""From work on fixed memory to what does the same work again. Raises `RuntimeError` where that cannot be recorded."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """The memory of all steps."""

    slots: Slots
    given_2R: torch.Tensor
    """The newest token of each row, and its length."""
    logits_RV: torch.Tensor
    beginning: Beginning | None


class Run:
    """The rows of one decoding, which has the room to itself while this object lives and has not ended."""

    def __init__(self, steps: "Steps", slots: Slots, shared: int) -> None:
        self._steps = steps
        self.slots = slots
        self.shared = shared
        """Shared positions that are read: a bucket of them, or none."""

    def logits(self, ids: Sequence[int], plain: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The logits (B, V) after one more token of each row; `plain` computes the same step without fixed shapes.
        They are overwritten by the next step."""
        return self._steps.step(self, ids, plain)

    def end(self) -> None:
        self._steps.end(self)


class Steps:
    """Owns the room and the recordings of one network. Without a way to record there are none, and `begin` says so."""

    def __init__(self, network: Network, record: Record | None) -> None:
        self._network = network
        self._record = record
        self._speaker: Hashable = None
        self._room: _Room | None = None
        self._running: weakref.ref[Run] | None = None
        self._recorded: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()

    @property
    def on(self) -> bool:
        return self._record is not None

    @contextmanager
    def speaking(self, *speaker: Hashable) -> Iterator[None]:
        """Within this, whose weights are read: recordings of another speaker, or of a copy that is gone, do not fit."""
        before, self._speaker = self._speaker, speaker
        try:
            yield
        finally:
            self._speaker = before

    def begin(self, rows: int, columns: int, shared: Layers | None, most: int) -> Run | None:
        """Room for so many rows of so many positions; None where there is none, or where somebody else has it. Room
        that is there already is kept, and made larger up to `most` positions in all."""
        if self._record is None or (self._running is not None and self._running() is not None):
            return None
        length = 0 if shared is None else shared[0].shape[2]
        try:
            room = self._fitting(rows, columns, bucket(length, LEAST_COLUMNS) if shared else 0, most)
        except torch.OutOfMemoryError:
            self._give_up(f"there is no memory for {rows} rows of {columns} positions")
            return None
        room.slots.lengths = []
        if shared is not None:
            assert room.beginning is not None, "room without a place for what is shared"
            room.beginning.length.fill_(length)
            for held, layer in zip(room.beginning.layers, shared, strict=True):
                held[:, :, :length] = layer
        run = Run(self, room.slots, bucket(length, LEAST_COLUMNS) if shared else 0)
        self._room, self._running = room, weakref.ref(run)
        return run

    def end(self, run: Run) -> None:
        if self._running is not None and self._running() is run:
            self._running = None

    def step(self, run: Run, ids: Sequence[int], plain: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `Run.logits` says."""
        room = self._room
        if room is None or self._record is None or self._running is None or self._running() is not run:
            return plain()
        lengths = run.slots.lengths
        rows = min(_power(len(ids)), run.slots.rows)
        columns = min(bucket(max(lengths) + 1, LEAST_COLUMNS), run.slots.columns)
        empty = [0] * (rows - len(ids))
        room.given_2R[:, :rows] = torch.tensor([[*ids, *empty], [*lengths, *empty]], device="cpu")
        # Slots move where a pass over prompts pads beyond the room; what was recorded reads where they were.
        key = (self._speaker, rows, columns, run.shared, run.slots.moved)
        replay = self._recorded.get(key)
        if replay is None:
            return self._first(key, partial(self._work, room, rows, columns, run.shared), plain)[: len(ids)]
        self._recorded.move_to_end(key)
        replay()
        return room.logits_RV[: len(ids)]

    def clear(self) -> None:
        """Let room and recordings go; a decoding that is under way goes on plainly."""
        self._recorded.clear()
        self._room = self._running = None

    def forget(self, adapter: str) -> None:
        """Drop the recordings of an adapter that is gone."""
        for key in [key for key in self._recorded if isinstance(key, tuple) and key[0][:1] == (adapter,)]:
            del self._recorded[key]

    def _work(self, room: _Room, rows: int, columns: int, shared: int) -> None:
        ids_B, lengths_B = room.given_2R[:, :rows]
        beginning = None
        if shared:
            assert room.beginning is not None, "a beginning that is nowhere"
            layers = [layer[:, :, :shared] for layer in room.beginning.layers]
            beginning = Beginning(layers, room.beginning.length)
        run = FixedPass(room.slots, columns, lengths_B, beginning)
        hidden_B1D = self._network.pass_over(ids_B[:, None], run.positions(), run)
        room.logits_RV[:rows] = self._network.logits(hidden_B1D[:, 0])

    def _first(self, key: Hashable, work: Callable[[], None], plain: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Record a step and take it, if it says what the plain one says. Both write the same at the same places."""
        told_BV = plain()
        assert self._record is not None and self._room is not None, "nothing to record with"
        try:
            replay = self._record(work)
            replay()
            ours_BV = self._room.logits_RV[: len(told_BV)]
            error = self._network.error(told_BV, ours_BV)
        except RuntimeError as problem:
            self._give_up(str(problem).partition("\n")[0])
            return told_BV
        if not error <= 1.0:
            self._give_up(f"a recorded step differs from the plain one by {error:.3g} of what rounding explains")
            return told_BV
        self._recorded[key] = replay
        while len(self._recorded) > MAX_RECORDED:
            self._recorded.popitem(last=False)
        return ours_BV

    def _fitting(self, rows: int, columns: int, shared: int, most: int) -> _Room:
        """The room that is there if it is large enough, else a larger one, without the recordings of the old one."""
        columns = -(-columns // GROWTH) * GROWTH
        room = self._room
        if room is not None:
            held = 0 if room.beginning is None else room.beginning.layers[0].shape[2]
            if room.slots.rows >= rows and room.slots.columns >= columns and held >= shared:
                return room
            larger = max(rows, room.slots.rows), max(columns, room.slots.columns)
            rows, columns = larger if larger[0] * larger[1] <= most else (rows, columns)
            shared = max(shared, held)
        self.clear()
        del room
        network, slots = self._network, Slots(rows)
        slots.hold(columns, network.cached)
        beginning = None
        if shared:
            layers = [each.new_zeros(2, each.shape[2], shared, each.shape[4]) for each in network.cached]
            beginning = Beginning(layers, torch.zeros((), dtype=torch.long, device=network.device))
        given_2R = torch.zeros(2, rows, dtype=torch.long, device=network.device)
        exact = torch.float64 if network.dtype == torch.float64 else torch.float32
        logits_RV = torch.zeros(rows, network.vocab_size, dtype=exact, device=network.device)
        return _Room(slots, given_2R, logits_RV, beginning)

    def _give_up(self, reason: str) -> None:
        """Plain steps from now on."""
        self._record = None
        self.clear()
        _log.warning("decoding goes on without recorded steps, which is slower: %s", reason)


def bucket(count: int, least: int) -> int:
    """The smallest of least × 1, 1½, 2, 3, 4, 6, 8, … that is no smaller than `count`."""
    size = least
    while size < count:
        if count <= size * 3 // 2:
            return size * 3 // 2
        size *= 2
    return size


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
