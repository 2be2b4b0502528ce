"""What is already computed of a text: keys and values of finished rows and shared prefixes, found again by their ids.

A conversation goes on from its own earlier turns, and calls that begin alike share their beginning. Entries belong to
one state of the weights (`owner`); the least recently used go first when the budget is spent.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from cai.models.local.attention import Layers

Ids = tuple[int, ...]

BLOCK = 16
"""Texts are found by their first whole blocks of this many tokens."""
MIN_SHARED = 32
"""A common beginning shorter than this is not worth an attention in two parts."""
MIN_GROUP = 16
"""Fewer rows than this are not worth a batch of their own, unless they are half of all rows."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """Keys and values of a text. What lies before `start` is `before`'s, shared with others and not copied."""

    ids: Ids
    layers: Layers
    before: "States | None" = None

    @property
    def start(self) -> int:
        return 0 if self.before is None else len(self.ids) - self.layers[0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def part(self, first: int, last: int) -> Layers:
        """The positions from `first` up to `last`, as views where they lie in one piece."""
        assert 0 <= first < last <= len(self.ids), (first, last, len(self.ids))
        own = [layer[:, :, max(0, first - self.start) : last - self.start] for layer in self.layers]
        if self.before is None or first >= self.start:
            return own
        earlier = self.before.part(first, min(last, self.start))
        if last <= self.start:
            return earlier
        return [torch.cat(both, dim=2) for both in zip(earlier, own, strict=True)]


@dataclass(frozen=True, slots=True)
class Match:
    states: States
    length: int
    """How many of the tokens asked about are known."""


class Kept:
    """States by the text they belong to, at most `budget` bytes of them."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self._entries: OrderedDict[tuple[str, Ids], States] = OrderedDict()
        self._by_block: dict[int, tuple[str, Ids]] = {}

    def keep(self, owner: str, states: States) -> None:
        key = (owner, states.ids)
        if states.nbytes > self._budget or len(states.ids) < BLOCK:
            return
        if key in self._entries:
            self._held -= self._entries.pop(key).nbytes
        self._entries[key] = states
        self._held += states.nbytes
        for mark in _marks(owner, states.ids):
            self._by_block[mark] = key
        while self._held > self._budget:
            self._forget_oldest()

    def longest(self, owner: str, ids: Sequence[int]) -> Match | None:
        """The entry that begins as `ids` does for the longest, of those that share a whole block with it."""
        for mark in reversed(list(_marks(owner, ids))):
            key = self._by_block.get(mark)
            states = None if key is None else self._entries.get(key)
            if key is None or states is None:
                continue
            same = common_length((states.ids, ids))
            if key[0] == owner and same >= BLOCK:
                self._entries.move_to_end(key)
                return Match(states, same)
        return None

    def clear(self) -> None:
        self._entries.clear()
        self._by_block.clear()
        self._held = 0

    def forget(self, owner: str) -> None:
        """Drop what belongs to weights that are gone."""
        for key in [key for key in self._entries if key[0] == owner]:
            self._entries.move_to_end(key, last=False)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        (owner, ids), states = self._entries.popitem(last=False)
        self._held -= states.nbytes
        for mark in _marks(owner, ids):
            if self._by_block.get(mark) == (owner, ids):
                del self._by_block[mark]


def common_length(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with alike."""
    plain = [tuple(text) for text in texts]
    first, last = min(plain), max(plain)  # of sorted texts the first and the last differ soonest
    pairs = zip(first, last, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))


def alike(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The texts' numbers, those together that share enough of a beginning; the others together as the last group."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, text in enumerate(texts):
        groups.setdefault(tuple(text[:MIN_SHARED]), []).append(number)
    shared = [group for group in groups.values() if _worth_sharing([texts[i] for i in group], len(texts))]
    taken = {number for group in shared for number in group}
    rest = [number for number in range(len(texts)) if number not in taken]
    return [*shared, rest] if rest else shared


def _worth_sharing(texts: Sequence[Sequence[int]], among: int) -> bool:
    """A group of its own makes batches smaller, so it must hold half of the texts, or be large and save most tokens."""
    if len(texts) < 2 or min(map(len, texts)) <= MIN_SHARED:
        return False
    saved = common_length(texts) * (len(texts) - 1)
    large = len(texts) >= MIN_GROUP and 2 * saved >= sum(map(len, texts))
    return saved >= MIN_SHARED and (2 * len(texts) >= among or large)


def _marks(owner: str, ids: Sequence[int]) -> Iterator[int]:
    mark = hash(owner)
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        mark = hash((mark, *ids[end - BLOCK : end]))
        yield mark
