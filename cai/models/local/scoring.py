"""Scalars from hidden states: the score of a whole row, and a value at every state on the way.

Shapes: B rows, T completion positions, D hidden width, N scored positions of a batch. The forward pass, its batches and
its padding are those of `logprobs`; the head is applied at the asked positions only, in fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from cai.models.local.logprobs import MAX_BATCH_TOKENS, TokenRow, batch_plan, hidden_at
from cai.models.local.network import Network


@dataclass(frozen=True, slots=True)
class TokenValues:
    """The value of the state in which each completion token is chosen, zero where the mask is false."""

    values_BT: torch.Tensor
    mask_BT: torch.Tensor
    ends_B: torch.Tensor
    """The value after the last token: the row's score, and what an answer that was cut short is still worth."""


def row_scores(network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow]) -> torch.Tensor:
    """The scalar (B) at each row's last token."""
    scalars = _scalars(network, head_1D, rows, lambda row: range(_length(row) - 1, _length(row)))
    return torch.cat(scalars)


def completion_values(network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow]) -> TokenValues:
    """The scalars at every position from the prompt's last token on."""
    scalars = _scalars(network, head_1D, rows, lambda row: range(len(row.prompt_ids) - 1, _length(row)))
    lengths_B = network.tensor([len(row.completion_ids) for row in rows])
    mask_BT = torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]
    values_BT = torch.nn.utils.rnn.pad_sequence([values[:-1] for values in scalars], batch_first=True)
    return TokenValues(values_BT, mask_BT, torch.stack([values[-1] for values in scalars]))


def _scalars(
    network: Network, head_1D: torch.Tensor, rows: Sequence[TokenRow], span: Callable[[TokenRow], range]
) -> list[torch.Tensor]:
    """The scalars of each row's span, in the order of the rows."""
    assert rows and all(row.prompt_ids and row.completion_ids for row in rows), "a row needs a prompt and a completion"
    found: dict[int, torch.Tensor] = {}
    for group in batch_plan([_length(row) for row in rows], MAX_BATCH_TOKENS):
        spans = [span(rows[i]) for i in group]
        sequences = [(*rows[i].prompt_ids, *rows[i].completion_ids) for i in group]
        scalars_N = functional.linear(hidden_at(network, sequences, spans).to(head_1D.dtype), head_1D)[:, 0]
        found |= dict(zip(group, scalars_N.split([len(each) for each in spans]), strict=True))
    return [found[i] for i in range(len(rows))]


def _length(row: TokenRow) -> int:
    return len(row.prompt_ids) + len(row.completion_ids)
