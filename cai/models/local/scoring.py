"""Scalars from hidden states: the score of a whole row, and a value at every state on the way.

Shapes: B rows, T completion positions, D hidden width, N scored positions of a batch. The forward pass, its batches and
its padding are those of `logprobs`; the head is applied at the asked positions only, in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from cai.models.local.layout import TokenRow, Told
from cai.models.local.logprobs import pass_by_pass, rows_hidden
from cai.models.local.network import Network


@dataclass(frozen=True, slots=True)
class TokenValues:
    """The value of the state in which each completion token is chosen, zero where the mask is false."""

    values_BT: torch.Tensor
    mask_BT: torch.Tensor
    ends_B: torch.Tensor
    """The value after the last token: the row's score, and what an answer that was cut short is still worth."""


def row_scores(
    network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow], *, lanes: bool = False
) -> torch.Tensor:
    """The scalar (B) at each row's last token."""
    return torch.cat(_scalars(network, head_1D, rows, "end", lanes=lanes))


def completion_values(
    network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow], *, lanes: bool = False
) -> TokenValues:
    """The scalars at every position from the prompt's last token on."""
    scalars = _scalars(network, head_1D, rows, "states", lanes=lanes)
    lengths_B = network.tensor([len(row.completion_ids) for row in rows])
    mask_BT = torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
    values_BT = torch.nn.utils.rnn.pad_sequence([values[:-1] for values in scalars], batch_first=True)
    return TokenValues(values_BT, mask_BT, torch.stack([values[-1] for values in scalars]))


def _scalars(
    network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow], told: Told, *, lanes: bool
) -> list[torch.Tensor]:
    """The scalars at the states that are asked of each row, in the order of the rows."""
    assert rows and all(row.prompt_ids and row.completion_ids for row in rows), "a row needs a prompt and a completion"
    found: dict[int, torch.Tensor] = {}

    def read(group: Sequence[int]) -> torch.Tensor:
        return rows_hidden(network, [rows[i] for i in group], told)

    for group, hidden_ND in pass_by_pass(network, rows, read, lanes=lanes):
        counts = [1 if told == "end" else len(rows[i].completion_ids) + 1 for i in group]
        scalars_N = functional.linear(hidden_ND.to(head_1D.dtype), head_1D)[:, 0]
        found |= dict(zip(group, scalars_N.split(counts), strict=True))
    return [found[i] for i in range(len(rows))]
