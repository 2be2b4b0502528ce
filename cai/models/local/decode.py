"""Generation: a step loop of our own, whose rows come and go while the batch runs on.

Shapes: B rows, S new positions, V vocabulary.

Rows wait longest first. As rows finish, waiting ones take their places, so a batch stays wide until little is left.
What rows begin with alike is computed once (`prefix`), what is known of a row from earlier calls is not computed again,
and attention reads both without copies (`attention`). What a row draws depends on its own prompt, sampling and seed;
batch mates change no more than the last bits of its logits. Texts and stops belong to `view`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cai.models.local.attention import Layers, Pass, Slots, layers_of
from cai.models.local.network import Network
from cai.models.local.prefix import MIN_SHARED, Kept, Match, States, alike, common_length
from cai.models.local.sampling import draw
from cai.models.local.steps import Run, Steps
from cai.models.local.width import USUAL, AtOnce
from cai.models.protocol import Finish, Sampling

MAX_ROWS = USUAL.rows
PREFILL_TOKENS = 4096
"""Most new positions of one pass over prompts."""
REFILL_SHARE = 8
"""Waiting rows are taken in when at least this fraction (1/8) of the places is free."""

Ended = Callable[[int, Sequence[int]], bool]
"""Whether row i is complete with these ids drawn, the newest included."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    logps: bool = False
    """Whether the log-probabilities of what is drawn are wanted."""


@dataclass(frozen=True, slots=True)
class Decoded:
    ids: tuple[int, ...]
    finish: Finish
    logps: tuple[float, ...] = ()
    """log p of each drawn token, as the model had it before temperature and nucleus."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where states are kept between calls, and whose they are."""

    kept: Kept
    owner: str


class Decoding:
    """Rows on their way: `step` draws one more token for every running row, or first ones for new rows."""

    def __init__(
        self,
        network: Network,
        rows: Sequence[DecodeRow],
        ended: Ended,
        memory: Memory | None = None,
        at_once: AtOnce = USUAL,
        steps: Steps | None = None,
    ) -> None:
        assert rows and all(row.prompt_ids and row.sampling.max_new_tokens > 0 for row in rows), "nothing to decode"
        self._network, self._rows, self._ended, self._memory = network, rows, ended, memory
        self._ids: list[list[int]] = [[] for _ in rows]
        self._logps: list[list[float]] = [[] for _ in rows]
        self._finish: list[Finish | None] = [None] * len(rows)
        with torch.inference_mode():
            self._shared = shared_states(network, [row.prompt_ids for row in rows], memory)
        self._skipped = 0 if self._shared is None else len(self._shared.ids)
        self._waiting = deque(_longest_first(rows))
        longest = _longest(rows, self._skipped)
        self._places = max(1, min(len(rows), at_once.rows, at_once.tokens // longest))
        self._run: Run | None = None
        if steps is not None:
            with torch.inference_mode():
                self._run = steps.begin(self._places, longest, self._shared_layers(), at_once.tokens)
        self._slots = Slots(self._places) if self._run is None else self._run.slots
        self._held: list[int] = []
        """The row in each slot that is in use."""

    def done(self) -> bool:
        return not self._held and not self._waiting

    def results(self) -> list[Decoded]:
        told = zip(self._ids, self._logps, self._finish, strict=True)
        return [Decoded(tuple(ids), finish or "length", tuple(logps)) for ids, logps, finish in told]

    def drawn(self, row: int) -> Sequence[int]:
        return self._ids[row]

    def step(self) -> None:
        free = self._places - len(self._held)
        with torch.inference_mode():
            if self._waiting and free * REFILL_SHARE >= self._places:
                self._take_in(free)
            else:
                self._advance()
        if self._run is not None and self.done():
            self._run.end()

    def _take_in(self, free: int) -> None:
        """Read the prompts of as many waiting rows as there is room for in one pass, and draw their first tokens.

        Several samples of one prompt read it once.
        """
        new: list[int] = []
        again: list[tuple[int, int]] = []
        readers: dict[tuple[int, ...], int] = {}
        known: list[Match | None] = []
        longest = 0
        while self._waiting and len(new) + len(again) < free:
            row = self._waiting[0]
            reader = readers.setdefault(self._rows[row].prompt_ids, len(new))
            if reader < len(new):
                again.append((self._waiting.popleft(), reader))
                continue
            match = self._known(row)
            left = len(self._rows[row].prompt_ids) - (self._skipped if match is None else match.length)
            if new and max(longest, left) * (len(new) + 1) > PREFILL_TOKENS:
                break
            new.append(self._waiting.popleft())
            known.append(match)
            longest = max(longest, left)
        first, starts = len(self._held), [0 if m is None else m.length - self._skipped for m in known]
        self._slots.reserve(max(starts) + longest)
        for slot, (match, start) in enumerate(zip(known, starts, strict=True), first):
            if match is not None:
                self._slots.put(slot, match.states.part(self._skipped, self._skipped + start))
        texts = [self._rows[i].prompt_ids[self._skipped + start :] for i, start in zip(new, starts, strict=True)]
        hidden_BSD = self._read(texts, starts, first)
        self._held += new
        self._slots.lengths += [start + len(text) for text, start in zip(texts, starts, strict=True)]
        for row, reader in again:
            self._slots.repeat(first + reader)
            self._held.append(row)
        readers_B = self._network.tensor([*range(len(new)), *(reader for _, reader in again)])
        ends_B = self._network.tensor([len(text) - 1 for text in texts])[readers_B]
        self._draw(self._network.logits(hidden_BSD[readers_B, ends_B]), first)

    def _known(self, row: int) -> Match | None:
        """What is kept of a row beyond the shared prefix; its last prompt token is always read anew."""
        if self._memory is None:
            return None
        match = self._memory.kept.longest(self._memory.owner, self._rows[row].prompt_ids[:-1])
        return match if match is not None and match.length > self._skipped else None

    def _read(self, texts: Sequence[Sequence[int]], starts: Sequence[int], first: int) -> torch.Tensor:
        width = max(map(len, texts))
        ids_BS = self._network.tensor([[*text, *[0] * (width - len(text))] for text in texts])
        columns_S = torch.arange(width, device=ids_BS.device)
        fresh = not any(starts)
        starts_B1 = self._network.tensor([[start] for start in starts])
        positions_BS = columns_S[None] if fresh else starts_B1 + columns_S
        run = Pass(
            positions_BS,
            self._shared_layers(),
            self._slots,
            first=first,
            columns=max(starts) + width,
            start=0 if fresh else positions_BS,
            fresh=fresh,
        )
        return self._network.pass_over(ids_BS, self._skipped + positions_BS, run)

    def _advance(self) -> None:
        """One more token for every running row."""
        ids = [self._ids[i][-1] for i in self._held]
        logits_BV = self._plain(ids) if self._run is None else self._run.logits(ids, lambda: self._plain(ids))
        self._slots.lengths = [length + 1 for length in self._slots.lengths]
        self._draw(logits_BV, 0)

    def _plain(self, ids: Sequence[int]) -> torch.Tensor:
        """The logits after one more token of each row. What it writes, it would write again."""
        lengths = self._slots.lengths
        columns = max(lengths) + 1
        self._slots.reserve(columns)
        positions_B1 = self._network.tensor([[length] for length in lengths])
        ids_B1 = self._network.tensor([[token] for token in ids])
        run = Pass(positions_B1, self._shared_layers(), self._slots, columns=columns, start=positions_B1)
        return self._network.logits(self._network.pass_over(ids_B1, self._skipped + positions_B1, run)[:, -1])

    def _draw(self, logits_BV: torch.Tensor, first: int) -> None:
        """The next token of the rows in the slots from `first` on; those that are complete leave."""
        rows = self._held[first:]
        samplings, seeds = [self._rows[i].sampling for i in rows], [self._rows[i].seed for i in rows]
        tokens_B = draw(logits_BV, samplings, seeds, [len(self._ids[i]) for i in rows])
        if any(self._rows[i].logps for i in rows):
            logps_B = logits_BV.gather(1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
            for i, logp in zip(rows, logps_B.tolist(), strict=True):
                self._logps[i].append(logp)
        for i, token in zip(rows, tokens_B.tolist(), strict=True):
            self._ids[i].append(token)
            if self._ended(i, self._ids[i]):
                self._finish[i] = "stop"
            elif len(self._ids[i]) >= self._rows[i].sampling.max_new_tokens:
                self._finish[i] = "length"
        for slot in reversed(range(first, len(self._held))):
            if self._finish[self._held[slot]] is not None:
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        row, length = self._held[slot], self._slots.lengths[slot]
        if self._memory is not None:
            ids = (*self._rows[row].prompt_ids, *self._ids[row])[: self._skipped + length]
            self._memory.kept.keep(self._memory.owner, States(ids, self._slots.take(slot, length), self._shared))
        self._slots.drop(slot)
        self._held[slot] = self._held[-1]
        self._held.pop()

    def _shared_layers(self) -> Layers | None:
        return None if self._shared is None else self._shared.layers


def decode(
    network: Network,
    rows: Sequence[DecodeRow],
    ended: Ended,
    memory: Memory | None = None,
    at_once: AtOnce = USUAL,
    steps: Steps | None = None,
) -> list[Decoded]:
    """Every row's tokens, in the order given. The plan depends on the rows and their draws, so a rerun repeats it."""
    found: dict[int, Decoded] = {}
    for group in alike([row.prompt_ids for row in rows]):
        own = [rows[i] for i in group]
        decoding = Decoding(network, own, _within_group(ended, group), memory, at_once, steps)
        while not decoding.done():
            decoding.step()
        found |= dict(zip(group, decoding.results(), strict=True))
    return [found[i] for i in range(len(rows))]


def shared_states(network: Network, prompts: Sequence[Sequence[int]], memory: Memory | None) -> States | None:
    """The common beginning of several rows; each keeps at least one token of its own to be read."""
    if len(prompts) < 2:
        return None
    length = min(common_length(prompts), min(map(len, prompts)) - 1)
    return states_of(network, prompts[0][:length], memory) if length >= MIN_SHARED else None


def states_of(network: Network, ids: Sequence[int], memory: Memory | None) -> States:
    """Keys and values of a text, computed where they are not kept already."""
    match = None if memory is None else memory.kept.longest(memory.owner, ids)
    if match is not None and match.length == len(ids):
        return States(tuple(ids), match.states.part(0, len(ids)))
    start = 0 if match is None else match.length
    known = None if match is None else match.states.part(0, start)
    new = torch.arange(len(ids) - start, device=network.device)[None]
    made: list[torch.Tensor] = []
    network.pass_over(network.tensor([list(ids[start:])]), start + new, Pass(new, shared=known, made=made))
    layers = layers_of(made, 0, len(ids) - start)
    if known is not None:
        layers = [torch.cat(both, dim=2) for both in zip(known, layers, strict=True)]
    states = States(tuple(ids), layers)
    if memory is not None:
        memory.kept.keep(memory.owner, states)
    return states


def _within_group(ended: Ended, group: Sequence[int]) -> Ended:
    return lambda k, ids: ended(group[k], ids)


def _longest_first(rows: Sequence[DecodeRow]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (-len(rows[i].prompt_ids), -rows[i].sampling.max_new_tokens, i))


def _longest(rows: Sequence[DecodeRow], skipped: int) -> int:
    """The most positions that a row may come to take."""
    return max(len(row.prompt_ids) - skipped + row.sampling.max_new_tokens for row in rows)
