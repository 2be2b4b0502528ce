"""Which rows share an update, and which of those share a forward pass: a pure function of ids, lengths and seed.

Nothing is sampled and no position is kept: the plan of a whole training is laid out at its start, so going on after
an interruption means looking up the next update.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cai.models.local.layout import TokenRow
from cai.seeds import derive
from cai.train.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Item:
    """A row as the plan sees it: how many tokens it brings to a forward pass."""

    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one update, as positions in the caller's sequence, split into forward passes."""

    number: int
    """The update's, counted from 1."""
    epoch: int
    micros: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(row for micro in self.micros for row in micro)


def plan_batches(config: TrainConfig, items: Sequence[Item]) -> list[Batch]:
    """Every update of the training, in order. Each epoch has its own order, and its last batch may be smaller."""
    batches: list[Batch] = []
    for epoch in range(config.epochs):
        order = epoch_order([item.id for item in items], config.seed, epoch)
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            batches.append(Batch(len(batches) + 1, epoch, split_by_tokens(rows, items, config.micro_tokens)))
    return batches


@dataclass(frozen=True, slots=True)
class Parts:
    """Positions of the rows that are trained on, and of those that are only measured."""

    trained: tuple[int, ...]
    held: tuple[int, ...]


def hold_out(ids: Sequence[str], share: float, seed: int) -> Parts:
    """Set a share of the rows aside, by their ids; at least one where there is a share, and never all."""
    order = epoch_order(ids, derive(seed, "holdout"), 0)
    count = min(max(1, round(share * len(ids))), len(ids) - 1) if share else 0
    return Parts(tuple(sorted(order[count:])), tuple(sorted(order[:count])))


def epoch_order(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    """An order of the positions that depends on seed, epoch and ids, not on the order the rows came in."""
    keys = [derive(seed, "epoch", epoch, row_id) for row_id in ids]
    return sorted(range(len(ids)), key=lambda i: (keys[i], ids[i], i))


def split_by_tokens(rows: Sequence[int], items: Sequence[Item], micro_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Rows of like length together, as many as `micro_tokens` hold; a longer row goes alone.

    The longest come first, so that a batch that does not fit in memory fails at once.
    """
    micros: list[tuple[int, ...]] = []
    current: list[int] = []
    held = 0
    for row in sorted(rows, key=lambda i: (-items[i].tokens, items[i].id, i)):
        if current and held + items[row].tokens > micro_tokens:
            micros.append(tuple(current))
            current, held = [], 0
        current.append(row)
        held += items[row].tokens
    if current:
        micros.append(tuple(current))
    return tuple(micros)


def tokens_digest(rows: Iterable[tuple[str, TokenRow]]) -> str:
    """The SHA-256 of ids and tokens in their order."""
    total = hashlib.sha256()
    for row_id, tokens in rows:
        for part in (row_id.encode(), _as_bytes(tokens.prompt_ids), _as_bytes(tokens.completion_ids)):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
    return total.hexdigest()


def _as_bytes(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()
