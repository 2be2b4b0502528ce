"""The log-probability of each target under a frozen language head, in tiles, with its gradient made in the same pass.

Shapes: N scored positions, D hidden width, V vocabulary.

log p(y) of a position is one number, so its gradient with respect to the hidden state is known, up to the factor that
the backward pass brings, as soon as the probabilities are: W_y − Σ p_v W_v. Making it in the forward pass means that
logits are never kept and never computed again, which saves a third of the head's work and all of its memory.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class LogitForm:
    """What becomes of the head's products before the softmax: c·tanh(scale·x / c) / temperature, uncapped without c."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0


def token_logps(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    form: LogitForm,
    tile: int,
) -> torch.Tensor:
    """In fp32, or in fp64 where the hidden states are."""
    logps_N: torch.Tensor = _TokenLogps.apply(hidden_ND, weight_VD, targets_N, form, tile)  # type: ignore[no-untyped-call]
    return logps_N


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        form: LogitForm,
        tile: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        logps, gradients = [], []
        # One piece of memory for all tiles: a CPU takes longer to be given fresh pages than to fill them.
        room = hidden_ND.new_empty(min(tile, len(hidden_ND)), len(weight_VD))
        for hidden, targets in zip(hidden_ND.split(tile), targets_N.split(tile), strict=True):
            logits = torch.mm(hidden, weight_VD.T, out=room[: len(hidden)])
            logp, gradient = _tile(logits, weight_VD, targets, form, wanted=wanted)
            logps.append(logp)
            if gradient is not None:
                gradients.append(gradient)
        if wanted:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, given_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return (given_N[:, None] * gradient_ND).to(gradient_ND.dtype), None, None, None, None


def _tile(
    logits_NV: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    form: LogitForm,
    *,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tile's log-probabilities and, where wanted, their gradients with respect to its hidden states. The logits are
    overwritten."""
    if logits_NV.dtype != torch.float64:
        logits_NV = logits_NV.float()
    factor, slope_NV = form.scale / form.temperature, None
    if form.softcap is None:
        if factor != 1.0:
            logits_NV *= factor
    else:
        logits_NV.mul_(form.scale / form.softcap).tanh_()
        slope_NV = 1 - logits_NV.square() if wanted else None
        logits_NV *= form.softcap / form.temperature
    at_N1 = targets_N[:, None]
    told_N1 = logits_NV.gather(1, at_N1)
    top_N1 = logits_NV.amax(1, keepdim=True)
    odds_NV = logits_NV.sub_(top_N1).exp_()
    total_N1 = odds_NV.sum(1, keepdim=True)
    logps_N = (told_N1 - top_N1 - total_N1.log())[:, 0]
    if not wanted:
        return logps_N, None
    factor_N1 = -factor / total_N1
    if slope_NV is None:
        # Σ p W by unnormalised odds: they are scaled after the product, over D numbers instead of V.
        mean_ND = odds_NV.to(weight_VD.dtype) @ weight_VD
        return logps_N, mean_ND.mul_(factor_N1).add_(weight_VD[targets_N], alpha=factor)
    pull_NV = odds_NV.mul_(factor_N1)
    pull_NV.scatter_add_(1, at_N1, torch.full_like(told_N1, factor))
    return logps_N, pull_NV.mul_(slope_NV).to(weight_VD.dtype) @ weight_VD
