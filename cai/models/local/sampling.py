"""Drawing tokens: temperature, nucleus and inverse CDF, with one uniform for each (row seed, position).

Shapes: B rows, V vocabulary. Because a row's uniform depends on its seed and position alone, the same row draws the
same tokens whatever batch it sits in.
"""

from collections.abc import Sequence

import torch

from cai.models.protocol import Sampling
from cai.seeds import uniform


def draw(
    logits_BV: torch.Tensor, samplings: Sequence[Sampling], seeds: Sequence[int], positions: Sequence[int]
) -> torch.Tensor:
    """The next token of every row. A temperature of 0 takes the likeliest, the lowest id among equals."""
    greedy = [sampling.temperature == 0 for sampling in samplings]
    likeliest_B = logits_BV.argmax(dim=-1)
    if all(greedy):
        return likeliest_B
    device = logits_BV.device
    heat = [1.0 if cold else sampling.temperature for cold, sampling in zip(greedy, samplings, strict=True)]
    heat_B = torch.tensor(heat, device=device, dtype=torch.float64)
    probs_BV = torch.softmax(logits_BV.double() / heat_B[:, None], dim=-1)
    top_p = [sampling.top_p for sampling in samplings]
    if any(p < 1 for p in top_p):
        probs_BV = nucleus(probs_BV, torch.tensor(top_p, device=device, dtype=torch.float64))
    uniforms = [uniform(seed, position) for seed, position in zip(seeds, positions, strict=True)]
    uniforms_B = torch.tensor(uniforms, device=device, dtype=torch.float64)
    sampled_B = inverse_cdf(probs_BV, uniforms_B)
    return torch.where(torch.tensor(greedy, device=device), likeliest_B, sampled_B)


def nucleus(probs_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """The probabilities with all but the smallest set of likeliest tokens that holds `top_p` set to zero
    (Holtzman et al. 2020); not renormalised, which `inverse_cdf` does not need."""
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    kept_BV = torch.where((before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1), sorted_BV, 0.0)
    return torch.zeros_like(probs_BV).scatter(-1, order_BV, kept_BV)


def inverse_cdf(weights_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """The token in whose share of [0, 1) each uniform falls. A token of weight zero is never drawn."""
    cdf_BV = weights_BV.cumsum(dim=-1)
    total_B = cdf_BV[:, -1]
    below_total_B = torch.nextafter(total_B, torch.zeros_like(total_B))
    target_B = torch.minimum(uniforms_B * total_B, below_total_B)
    return torch.searchsorted(cdf_BV, target_B[:, None], right=True)[:, 0]
