"""The log-probability of each target under a frozen language head, in tiles, with its gradient made in the same pass.

Shapes: N scored positions, D hidden width, V vocabulary, T the vocabulary of one tile.

log p(y) of a position is one number, so its gradient with respect to the hidden state is known, up to the factor that
the backward pass brings, as soon as the probabilities are: W_y − Σ p_v W_v. Making it in the forward pass means that
logits are never kept and never computed again, which saves a third of the head's work and all of its memory. The sum
over the vocabulary is built up tile by tile, brought to a new maximum whenever one is found, as fused attention does it
with keys (Milakov & Gimelshein 2018): so a tile's logits are still in the cache when they are read again.
"""

from dataclasses import dataclass
from typing import Any

import torch

from cai.models.local.kernels import WIDE, kernels

ROOM = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Logits held at once: 4 MB in fp32 on a CPU, which lie in its caches, 128 MB on a GPU."""
ROWS = 1024
"""Positions of one tile, where there are as many: the more there are, the more often a tile's weights are used."""


@dataclass(frozen=True, slots=True)
class LogitForm:
    """What becomes of the head's products before the softmax: c·tanh(scale·x / c) / temperature, uncapped without c."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def slope(self, logits: torch.Tensor) -> torch.Tensor | None:
        """What capping leaves of a change, at these logits; nothing where nothing is capped."""
        return None if self.softcap is None else 1 - (logits * (self.temperature / self.softcap)).square()


def token_logps(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    form: LogitForm,
    room: int | None = None,
) -> torch.Tensor:
    """In fp32, or in fp64 where the hidden states are."""
    size = room or ROOM[hidden_ND.device.type]
    logps_N: torch.Tensor = _TokenLogps.apply(hidden_ND, weight_VD, targets_N, form, size)  # type: ignore[no-untyped-call]
    return logps_N


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        form: LogitForm,
        size: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        rows = max(1, min(ROWS, len(hidden_ND), size))
        width = min(max(1, size // rows), len(weight_VD))
        if kernels() is not None and width > WIDE:
            width -= width % WIDE
        # One piece of memory for all tiles: a CPU takes longer to be given fresh pages than to fill them.
        room = hidden_ND.new_empty(rows, width)
        found = [
            _tile(hidden, weight_VD, targets, form, room, wanted=wanted)
            for hidden, targets in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
        ]
        if wanted:
            ctx.save_for_backward(torch.cat([gradient_ND for _, gradient_ND in found if gradient_ND is not None]))
        return torch.cat([logps_N for logps_N, _ in found])

    @staticmethod
    def backward(ctx: Any, given_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return (given_N[:, None] * gradient_ND).to(gradient_ND.dtype), None, None, None, None


def _tile(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    form: LogitForm,
    room_NT: torch.Tensor,
    *,
    wanted: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Some positions' log-probabilities and, where wanted, their gradients with respect to their hidden states."""
    kind = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
    top_N1 = torch.full((len(hidden_ND), 1), -torch.inf, dtype=kind, device=hidden_ND.device)
    total_N1, told_N1 = torch.zeros_like(top_N1), torch.zeros_like(top_N1)
    mean_ND = torch.zeros_like(hidden_ND, dtype=kind)
    start = 0
    for weight_TD in weight_VD.split(room_NT.shape[1]):
        product_NT = room_NT[: len(hidden_ND), : len(weight_TD)]
        logits_NT = _formed(torch.mm(hidden_ND, weight_TD.T, out=product_NT).to(kind), form)
        at_N1 = targets_N[:, None] - start
        inside_N1 = (at_N1 >= 0) & (at_N1 < len(weight_TD))
        told_N1 = torch.where(inside_N1, logits_NT.gather(1, at_N1.clamp(0, len(weight_TD) - 1)), told_N1)
        slope_NT = form.slope(logits_NT) if wanted else None
        odds_NT, shrunk_N1 = _odds(logits_NT, top_N1, total_N1)
        if wanted:
            odds_NT = odds_NT if slope_NT is None else odds_NT.mul_(slope_NT)
            mean_ND.mul_(shrunk_N1).add_(odds_NT.to(weight_TD.dtype) @ weight_TD)
        start += len(weight_TD)
    logps_N = (told_N1 - top_N1 - total_N1.log())[:, 0]
    if not wanted:
        return logps_N, None
    factor = form.scale / form.temperature
    own_N1 = form.slope(told_N1)
    pull_ND = weight_VD[targets_N] * (factor if own_N1 is None else own_N1 * factor)
    return logps_N, mean_ND.mul_(-factor / total_N1).add_(pull_ND).to(hidden_ND.dtype)


def _odds(logits_NT: torch.Tensor, top_N1: torch.Tensor, total_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponentials beside the largest logit up to here, in the logits' place; what earlier tiles' sums shrink by."""
    found = kernels()
    if found is not None and logits_NT.dtype == torch.float32 and logits_NT.shape[1] % WIDE == 0:
        return logits_NT, found.odds(logits_NT, top_N1, total_N1)
    highest_N1 = torch.maximum(top_N1, logits_NT.amax(1, keepdim=True))
    shrunk_N1 = (top_N1 - highest_N1).exp_()
    odds_NT = logits_NT.sub_(highest_N1).exp_()
    total_N1.mul_(shrunk_N1).add_(odds_NT.sum(1, keepdim=True))
    top_N1.copy_(highest_N1)
    return odds_NT, shrunk_N1


def _formed(products_NT: torch.Tensor, form: LogitForm) -> torch.Tensor:
    """Logits in the place of the head's products."""
    if form.softcap is not None:
        return products_NT.mul_(form.scale / form.softcap).tanh_().mul_(form.softcap / form.temperature)
    factor = form.scale / form.temperature
    return products_NT if factor == 1.0 else products_NT.mul_(factor)
