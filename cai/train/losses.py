"""Losses: pure functions from log-probabilities to one number per example.

Which tokens count, how batches are averaged and how the log-probabilities came to be is decided elsewhere.
Shapes: B examples (rows or pairs), T tokens. Δ is the log-ratio of the chosen answer minus that of the rejected one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LN_2 = math.log(2)


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of whole answers, summed over completion tokens (or averaged, where a recipe says so)."""

    policy_chosen_B: Tensor
    policy_rejected_B: Tensor
    reference_chosen_B: Tensor
    reference_rejected_B: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        return self.policy_chosen_B - self.reference_chosen_B

    @property
    def rejected_ratio(self) -> Tensor:
        return self.policy_rejected_B - self.reference_rejected_B

    @property
    def delta(self) -> Tensor:
        return self.chosen_ratio - self.rejected_ratio

    def swapped(self) -> "PairLogps":
        """The same pairs with chosen and rejected exchanged."""
        return PairLogps(
            self.policy_rejected_B, self.policy_chosen_B, self.reference_rejected_B, self.reference_chosen_B
        )

    def averaged(self, chosen_lengths_B: Tensor, rejected_lengths_B: Tensor) -> "PairLogps":
        """The same pairs per token."""
        return PairLogps(
            self.policy_chosen_B / chosen_lengths_B,
            self.policy_rejected_B / rejected_lengths_B,
            self.reference_chosen_B / chosen_lengths_B,
            self.reference_rejected_B / rejected_lengths_B,
        )


@dataclass(frozen=True, slots=True)
class LossSettings:
    beta: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.0
    """By how much a chosen answer must lead: γ of SimPO."""


def dpo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """−log σ(βΔ). Rafailov et al. 2023, equation 7."""
    assert settings.label_smoothing == 0, settings
    return -logsigmoid(settings.beta * pairs.delta)


def cdpo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ). Mitchell 2023, "A note on DPO with noisy preferences", equation 3."""
    scaled_B, e = settings.beta * pairs.delta, settings.label_smoothing
    return -(1 - e) * logsigmoid(scaled_B) - e * logsigmoid(-scaled_B)


def robust(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """[−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε), ε < ½. Chowdhury et al. 2024, "Provably robust DPO"."""
    scaled_B, e = settings.beta * pairs.delta, settings.label_smoothing
    assert e < 0.5, settings
    return (-(1 - e) * logsigmoid(scaled_B) + e * logsigmoid(-scaled_B)) / (1 - 2 * e)


def hinge(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """max(0, 1 − βΔ). Zhao et al. 2023, SLiC-HF, on log-ratios as in Liu et al. 2023, RSO."""
    assert settings.label_smoothing == 0, settings
    return torch.relu(1 - settings.beta * pairs.delta)


def ipo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """(Δ − 1/(2β))². Azar et al. 2023, equation 17; summed log-ratios as there, unless the pairs were `averaged`."""
    assert settings.label_smoothing == 0, settings
    return (pairs.delta - 1 / (2 * settings.beta)) ** 2


def cpo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ), where the reference is uniform: Δ = log π_w − log π_l. Xu et al. 2024, equation
    3; its other term, the chosen answer's likelihood, is the trainer's `nll`."""
    return cdpo(_without_reference(pairs), settings)


def simpo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """−log σ(βΔ − γ) on log-probabilities per token, without a reference. Meng et al. 2024, equation 6."""
    assert settings.label_smoothing == 0, settings
    return -logsigmoid(settings.beta * _without_reference(pairs).delta - settings.margin)


def orpo(pairs: PairLogps, settings: LossSettings) -> Tensor:
    """−β log σ(log odds_w − log odds_l), odds of the log-probability per token. Hong et al. 2024, equations 6 and 7;
    the chosen answer's likelihood is the trainer's `nll`."""
    assert settings.label_smoothing == 0, settings
    return -settings.beta * logsigmoid(_log_odds(pairs.policy_chosen_B) - _log_odds(pairs.policy_rejected_B))


def _without_reference(pairs: PairLogps) -> PairLogps:
    nothing_B = torch.zeros_like(pairs.reference_chosen_B)
    return PairLogps(pairs.policy_chosen_B, pairs.policy_rejected_B, nothing_B, nothing_B)


def _log_odds(logps_B: Tensor) -> Tensor:
    """log p − log(1 − p), each half of the range by the form that is exact there."""
    near_one_B = torch.log(-torch.expm1(logps_B.clamp(min=-LN_2)))
    return logps_B - torch.where(logps_B > -LN_2, near_one_B, torch.log1p(-torch.exp(logps_B.clamp(max=-LN_2))))


LOSSES: dict[str, Callable[[PairLogps, LossSettings], Tensor]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "cpo": cpo,
    "simpo": simpo,
    "orpo": orpo,
}


def preference_loss(name: str, pairs: PairLogps, p_B: Tensor, settings: LossSettings) -> Tensor:
    """p·ℓ(pair) + (1−p)·ℓ(swapped pair): the expected loss when the chosen answer is better with probability p.

    For `dpo` that is −p log σ(βΔ) − (1−p) log σ(−βΔ). With p = 1 it is the loss as its paper writes it.
    """
    loss = LOSSES[name]
    return p_B * loss(pairs, settings) + (1 - p_B) * loss(pairs.swapped(), settings)


def reward_model(chosen_B: Tensor, rejected_B: Tensor, p_B: Tensor, margin_B: Tensor, centring: float) -> Tensor:
    """−p log σ(r_w − r_l − m) − (1−p) log σ(r_l − r_w + m) + c (r_w + r_l)²: Bradley and Terry's, soft labels, and the
    margin of Touvron et al. 2023, equation 2; c as in Eisenstein et al. 2023, which keeps rewards near zero."""
    gap_B = chosen_B - rejected_B - margin_B
    return -p_B * logsigmoid(gap_B) - (1 - p_B) * logsigmoid(-gap_B) + centring * (chosen_B + rejected_B) ** 2


def kto(ratios_B: Tensor, p_B: Tensor, drift: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """p λ_D [1 − σ(β(r − z))] + (1−p) λ_U [1 − σ(β(z − r))], where p is how likely the answer is a desirable one.
    Ethayarajh et al. 2024, equation 8; z, the drift from the reference, carries no gradient."""
    gain_B = beta * (ratios_B - drift.detach())
    desirable, undesirable = weights
    return p_B * desirable * torch.sigmoid(-gain_B) + (1 - p_B) * undesirable * torch.sigmoid(gain_B)


def negative_log_likelihood(logps_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """−Σ log π over each row's unmasked tokens. What stands in masked places, infinities too, has no influence."""
    return -logps_BT.masked_fill(~mask_BT.bool(), 0.0).sum(dim=-1)
