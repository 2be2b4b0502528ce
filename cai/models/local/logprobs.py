"""Log-probabilities of completions: one kernel path for policy and reference, with gradients or without.

Shapes: B rows, T completion positions, S sequence positions, D hidden width, N scored positions of a batch.

Rows lie end to end, and a prompt that rows share is read once for all of them; a model whose layers cannot do that gets
its rows padded on the right, where a causal model never looks. The head is applied at completion positions only, so
no logits over the vocabulary exist for prompt tokens. Losses live in `cai.train.losses`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cai.models.local.lanes import both, parted, there_are_lanes
from cai.models.local.layout import TokenRow, Told, lay_out, pass_plan
from cai.models.local.network import Network

__all__ = ["TokenLogps", "TokenRow", "batch_plan", "completion_logps", "hidden_at", "pass_by_pass", "rows_hidden"]

MAX_BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class TokenLogps:
    """log p of every completion token, zero where the mask is false."""

    logps_BT: torch.Tensor
    mask_BT: torch.Tensor

    def sums(self) -> torch.Tensor:
        return self.logps_BT.sum(dim=1)

    def lengths(self) -> torch.Tensor:
        return self.mask_BT.sum(dim=1)


def completion_logps(
    network: Network, rows: Sequence[TokenRow], temperature: float = 1.0, *, lanes: bool = False
) -> TokenLogps:
    """log p(completion token | everything before it), in fp32, in the order of the rows."""
    assert rows and all(row.prompt_ids and row.completion_ids for row in rows), "a row needs a prompt and a completion"
    width = max(len(row.completion_ids) for row in rows)

    def read(group: Sequence[int]) -> torch.Tensor:
        hidden_ND = rows_hidden(network, [rows[i] for i in group], "tokens")
        targets = [token for i in group for token in rows[i].completion_ids]
        return network.target_logps(hidden_ND, network.tensor(targets), temperature)

    found = pass_by_pass(network, rows, read, lanes=lanes)
    flat_index = [i * width + t for group, _ in found for i in group for t in range(len(rows[i].completion_ids))]
    index_N, logps_N = network.tensor(flat_index), torch.cat([each for _, each in found])
    logps = logps_N.new_zeros(len(rows) * width).index_copy(0, index_N, logps_N)
    mask = torch.zeros(len(rows) * width, dtype=torch.bool, device=network.device).index_fill(0, index_N, True)
    return TokenLogps(logps.view(len(rows), width), mask.view(len(rows), width))


def pass_by_pass(
    network: Network, rows: Sequence[TokenRow], read: Callable[[Sequence[int]], torch.Tensor], *, lanes: bool
) -> list[tuple[list[int], torch.Tensor]]:
    """The numbers of the rows in each pass, and what is read of them: in two lanes where it may be and pays."""
    found: list[tuple[list[int], torch.Tensor]] = []
    for group in row_plan(network, rows):
        apart = lanes and network.lanes and there_are_lanes()
        parts = parted([rows[i] for i in group], network.costs) if apart else [range(len(group))]
        groups = [[group[k] for k in part] for part in parts]
        works = [partial(read, each) for each in groups]
        if len(works) == 1:
            outs: Sequence[torch.Tensor] = [works[0]()]
        else:
            # The lanes find it as they leave it: none may end it for the other.
            with network.packing():
                outs = both(works, network.learnt())
        found += zip(groups, outs, strict=True)
    return found


def row_plan(network: Network, rows: Sequence[TokenRow]) -> list[list[int]]:
    """Row numbers of each pass; it depends on the rows' tokens alone."""
    if network.packs:
        return pass_plan(rows, MAX_BATCH_TOKENS)
    return batch_plan([len(row.prompt_ids) + len(row.completion_ids) for row in rows], MAX_BATCH_TOKENS)


def rows_hidden(network: Network, rows: Sequence[TokenRow], told: Told) -> torch.Tensor:
    """The hidden states (N, D) that are asked of each row, one row after the other."""
    if network.packs:
        layout = lay_out(rows, told)
        return network.packed(layout).index_select(0, network.tensor([at for own in layout.told for at in own]))
    cut = -1 if told == "tokens" else None
    sequences = [(*row.prompt_ids, *row.completion_ids[:cut]) for row in rows]
    firsts = [len(ids) - 1 if told == "end" else len(r.prompt_ids) - 1 for r, ids in zip(rows, sequences, strict=True)]
    spans = [range(first, len(ids)) for first, ids in zip(firsts, sequences, strict=True)]
    return hidden_at(network, sequences, spans)


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
