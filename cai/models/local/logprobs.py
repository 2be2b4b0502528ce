"""Log-probabilities of completions: one kernel path for policy, reference and `choose`.

Shapes: B rows, T completion positions, S sequence positions, D hidden width, N scored positions of a batch.

The head is applied at completion positions only, so no logits over the vocabulary exist for prompt tokens. Rows are
padded on the right: a causal model never looks ahead, so padding needs no mask and positions count from zero. Losses
live in `cai.train.losses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from cai.models.local.network import Network

MAX_BATCH_TOKENS = 16_384
MAX_TILE_LOGITS = 1 << 25
"""Logits held at once: 128 MB in fp32. Above it the head runs in tiles that are computed again in backward."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One conversation cut at the token where the completion starts."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogps:
    """log p of every completion token, zero where the mask is false."""

    logps_BT: torch.Tensor
    mask_BT: torch.Tensor

    def sums(self) -> torch.Tensor:
        return self.logps_BT.sum(dim=1)

    def lengths(self) -> torch.Tensor:
        return self.mask_BT.sum(dim=1)


def completion_logps(network: Network, rows: Sequence[TokenRow]) -> TokenLogps:
    """log p(completion token | everything before it), in fp32, in the order of the rows."""
    assert rows and all(row.prompt_ids and row.completion_ids for row in rows), "a row needs a prompt and a completion"
    width = max(len(row.completion_ids) for row in rows)
    flat_index: list[int] = []
    parts: list[torch.Tensor] = []
    lengths = [len(row.prompt_ids) + len(row.completion_ids) for row in rows]
    for group in batch_plan(lengths, MAX_BATCH_TOKENS):
        sequences = [(*rows[i].prompt_ids, *rows[i].completion_ids[:-1]) for i in group]
        spans = [
            range(len(rows[i].prompt_ids) - 1, len(sequence)) for i, sequence in zip(group, sequences, strict=True)
        ]
        targets = [token for i in group for token in rows[i].completion_ids]
        parts.append(_tiled_logps(network, hidden_at(network, sequences, spans), network.tensor(targets)))
        flat_index += [i * width + t for i in group for t in range(len(rows[i].completion_ids))]
    index_N, logps_N = network.tensor(flat_index), torch.cat(parts)
    logps = logps_N.new_zeros(len(rows) * width).index_copy(0, index_N, logps_N)
    mask = torch.zeros(len(rows) * width, dtype=torch.bool, device=network.device).index_fill(0, index_N, True)
    return TokenLogps(logps.view(len(rows), width), mask.view(len(rows), width))


def batch_plan(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Row numbers grouped longest first, each group at most `max_tokens` when padded; it depends on lengths alone."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[groups[-1][0]] * (len(groups[-1]) + 1) > max_tokens:
            groups.append([])
        groups[-1].append(i)
    return groups


def hidden_at(network: Network, sequences: Sequence[Sequence[int]], spans: Sequence[range]) -> torch.Tensor:
    """The hidden states (N, D) at each sequence's span of positions, one sequence after the other."""
    width = max(len(sequence) for sequence in sequences)
    ids_BS = network.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    hidden_BSD = network.hidden(ids_BS)
    index_N = network.tensor([row * width + position for row, span in enumerate(spans) for position in span])
    return hidden_BSD.reshape(-1, hidden_BSD.shape[-1]).index_select(0, index_N)


def _tiled_logps(network: Network, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    tile = max(1, MAX_TILE_LOGITS // network.vocab_size)
    if len(targets_N) <= tile:
        return network.target_logps(hidden_ND, targets_N)
    pieces = zip(hidden_ND.split(tile), targets_N.split(tile), strict=True)
    tiled = partial(checkpoint, network.target_logps, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([tiled(hidden, targets) for hidden, targets in pieces])
