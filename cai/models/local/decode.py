"""Generation: a step loop of our own over left-padded batches.

Shapes: B rows still running, S prompt width, K cached positions, V vocabulary.

Rows are grouped by length, run together, and leave the batch when they are done. What a row draws depends on its own
prompt, sampling and seed; batch mates change no more than the last bits of its logits. Texts, stop strings and
end-of-turn ids belong to `view`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cai.models.local.network import Network
from cai.models.local.sampling import draw
from cai.models.protocol import Finish, Sampling

MAX_ROWS = 64
MAX_TOKENS = 65_536
"""Most cached positions of one batch: rows times (longest prompt + longest reply)."""

Ended = Callable[[int, Sequence[int]], bool]
"""Whether row i is complete with these ids drawn, the newest included."""


@dataclass(frozen=True, slots=True)
class DecodeRow:
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int


@dataclass(frozen=True, slots=True)
class Decoded:
    ids: tuple[int, ...]
    finish: Finish


class Decoding:
    """One batch on its way: `step` draws one more token for every running row."""

    def __init__(self, network: Network, rows: Sequence[DecodeRow], ended: Ended) -> None:
        assert rows and all(row.prompt_ids and row.sampling.max_new_tokens > 0 for row in rows), "nothing to decode"
        self._network = network
        self._rows = rows
        self._ended = ended
        self._ids: list[list[int]] = [[] for _ in rows]
        self._finish: list[Finish | None] = [None] * len(rows)
        self._held = list(range(len(rows)))
        self._position = 0
        self._cache = network.new_cache()
        width = max(len(row.prompt_ids) for row in rows)
        gaps = [width - len(row.prompt_ids) for row in rows]
        self._next_BS = network.tensor([[0] * g + list(r.prompt_ids) for g, r in zip(gaps, rows, strict=True)])
        columns_S = torch.arange(width, device=network.device)
        gaps_B1 = network.tensor([[gap] for gap in gaps])
        self._mask_BK = columns_S >= gaps_B1
        self._positions_BS = (columns_S - gaps_B1).clamp(min=0)
        self._padded = any(gaps)

    def done(self) -> bool:
        return all(self._finish)

    def results(self) -> list[Decoded]:
        return [Decoded(tuple(ids), finish or "length") for ids, finish in zip(self._ids, self._finish, strict=True)]

    def drawn(self, row: int) -> Sequence[int]:
        return self._ids[row]

    def step(self) -> None:
        with torch.inference_mode():
            hidden_BSD = self._network.hidden(self._next_BS, self._mask(), self._positions_BS, self._cache)
            logits_BV = self._network.logits(hidden_BSD[:, -1])
            held = [self._rows[i] for i in self._held]
            tokens_B = draw(logits_BV, [row.sampling for row in held], [row.seed for row in held], self._position)
            self._position += 1
            for i, token in zip(self._held, tokens_B.tolist(), strict=True):
                self._append(i, token)
            self._advance(tokens_B)

    def _append(self, i: int, token: int) -> None:
        if self._finish[i] is not None:
            return
        self._ids[i].append(token)
        if self._ended(i, self._ids[i]):
            self._finish[i] = "stop"
        elif len(self._ids[i]) >= self._rows[i].sampling.max_new_tokens:
            self._finish[i] = "length"

    def _advance(self, tokens_B: torch.Tensor) -> None:
        """Set up the next step. Finished rows are dropped once they are half of those held: that copies the cache."""
        running = [k for k, i in enumerate(self._held) if self._finish[i] is None]
        self._next_BS = tokens_B[:, None]
        self._positions_BS = self._positions_BS[:, -1:] + 1
        if running and len(running) * 2 <= len(self._held):
            index_B = self._network.tensor(running)
            self._cache.batch_select_indices(index_B)
            self._held = [self._held[k] for k in running]
            self._next_BS, self._positions_BS = self._next_BS[index_B], self._positions_BS[index_B]
            self._mask_BK = self._mask_BK[index_B]
        if self._padded:
            new_B1 = torch.ones_like(self._mask_BK[:, :1])
            self._mask_BK = torch.cat([self._mask_BK, new_B1], dim=1)

    def _mask(self) -> torch.Tensor | None:
        if not self._padded:
            return None
        if self._network.all_layers_full and self._next_BS.shape[1] == 1:
            return self._mask_BK[:, None, None, :]  # a single query sees every real column: no causal mask to build
        return self._mask_BK


def decode(network: Network, rows: Sequence[DecodeRow], ended: Ended) -> list[Decoded]:
    """Every row's tokens, in the order given. The batch plan depends on the rows alone, so a rerun repeats it."""
    found: dict[int, Decoded] = {}
    for group in batches(rows):
        decoding = Decoding(network, [rows[i] for i in group], _within_group(ended, group))
        while not decoding.done():
            decoding.step()
        found |= dict(zip(group, decoding.results(), strict=True))
    return [found[i] for i in range(len(rows))]


def _within_group(ended: Ended, group: Sequence[int]) -> Ended:
    return lambda k, ids: ended(group[k], ids)


def batches(rows: Sequence[DecodeRow]) -> Iterator[list[int]]:
    """Row numbers in batches of like prompts, longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].prompt_ids), -rows[i].sampling.max_new_tokens, i))
    batch: list[int] = []
    for i in order:
        replies = [rows[k].sampling.max_new_tokens for k in (*batch, i)]
        width = len(rows[batch[0] if batch else i].prompt_ids) + max(replies)
        if batch and (len(batch) == MAX_ROWS or width * len(replies) > MAX_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
