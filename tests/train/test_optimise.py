"""Schedule and optimizer."""

import pytest
import torch

from cai.train.config import SftConfig
from cai.train.optimise import adamw, learning_rate, moments, restore_moments


def rates(total: int, **settings: object) -> list[float]:
    config = SftConfig.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(config, number, total) for number in range(1, total + 1)]


def test_the_rate_rises_to_its_peak_and_falls_without_ever_being_zero() -> None:
    """Three of ten updates warm up: 1/4, 2/4, 3/4, then the peak, then down over the other seven."""
    linear = rates(10, warmup=0.3, schedule="linear")
    assert linear == pytest.approx([0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    cosine = rates(10, warmup=0.3, schedule="cosine")
    assert cosine[:4] == linear[:4]
    assert cosine[4:] == sorted(cosine[4:], reverse=True)
    # cos(6π/7) = −0.9009689
    assert cosine[-1] == pytest.approx((1 - 0.9009689) / 2, rel=1e-5)
    assert rates(10, warmup=0.3, schedule="constant") == [*linear[:3], *[1.0] * 7]


def test_a_training_of_one_update_uses_the_whole_rate() -> None:
    assert rates(1, warmup=0.1) == [1.0]


def test_the_first_update_of_adamw_moves_each_weight_by_the_rate() -> None:
    """m/(√v + ε) is ±1 after the first step, whatever the gradient's size; without decay nothing else moves."""
    weight = torch.nn.Parameter(torch.tensor([3.0, -3.0]))
    optimizer = adamw(SftConfig(learning_rate=0.5), {"w": weight})
    weight.grad = torch.tensor([1e-3, -20.0])
    optimizer.step()
    assert weight.tolist() == pytest.approx([2.5, -2.5], abs=1e-4)


def test_restored_moments_continue_to_the_last_bit() -> None:
    def run(steps: list[float], weight: torch.nn.Parameter, optimizer: torch.optim.AdamW) -> None:
        for gradient in steps:
            weight.grad = torch.full((4,), gradient)
            optimizer.step()

    config, steps = SftConfig(learning_rate=0.1), [1.0, -0.3, 0.7, 0.01, -2.0]
    straight, first = (torch.nn.Parameter(torch.arange(4.0)) for _ in range(2))
    run(steps, straight, adamw(config, {"w": straight}))
    optimizer = adamw(config, {"w": first})
    run(steps[:3], first, optimizer)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = adamw(config, {"w": second})
    restore_moments(resumed, {"w": second}, moments(optimizer, {"w": first}))
    run(steps[3:], second, resumed)
    assert torch.equal(second, straight)
