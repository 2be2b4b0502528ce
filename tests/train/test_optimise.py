"""Schedule, optimizer, and what a training that goes wrong ends with."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cai.train.config import OnAlarm, SftConfig
from cai.train.optimise import Gradient, Job, Step, adamw, learning_rate, moments, optimise, restore_moments


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


class Weight:
    """The least that can be trained: one number, which every update moves down by the rate."""

    def __init__(self) -> None:
        self.value = torch.nn.Parameter(torch.tensor([100.0]))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"w": self.value}

    def state(self) -> dict[str, torch.Tensor]:
        return {"w": self.value.detach().clone()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.value.copy_(tensors["w"])

    def save(self, folder: Path) -> None:
        folder.mkdir()
        save_file(self.state(), folder / "w.safetensors")


Told = Callable[[int], dict[str, float]]
"""What an update says of itself, beside what it does."""


def explodes(number: int) -> dict[str, float]:
    return {"loss": 1.0 if number <= 20 else 9.0}


def tossed(number: int) -> dict[str, float]:
    """Labels that are coin tosses, with a held-out score that happens to rise all the same."""
    margin = 0.01 if number % 2 else -0.01
    ranks = {"rewards/accuracies": 0.5 + margin, "rewards/margins": margin}
    return {"loss": 0.69, **ranks, "probe/helpfulness": number / 99}


def trained(folder: Path, told: Told, on_alarm: OnAlarm, upto: int = 99, **settings: object) -> list[Step]:
    """The steps of 60 updates, or of so many of them; another call goes on."""
    learner = Weight()

    def accumulate(number: int) -> Gradient:
        learner.value.grad = torch.tensor([1.0])
        metrics = {name: torch.tensor(value) for name, value in told(number).items()}
        return Gradient((), torch.zeros(0), metrics)

    common = {"learning_rate": 1.0, "schedule": "constant", "warmup": 0.0, "on_alarm": on_alarm}
    config = SftConfig.model_validate({**common, **settings})
    steps = []
    for step in optimise(config, Job("digest", 60, learner, folder, lambda: False), accumulate):
        steps.append(step)
        if step.number == upto:
            break
    return steps


def result(folder: Path) -> int:
    """After how many updates the saved weight was what it is."""
    return round(100 - load_file(folder / "adapter" / "w.safetensors")["w"].item())


def test_a_training_that_goes_wrong_goes_on_or_ends_as_it_was_told(tmp_path: Path) -> None:
    warned = trained(tmp_path / "warn", explodes, "warn")
    alarm = next(step.alarm for step in warned if step.alarm)
    assert alarm.kind == "loss-explosion"
    assert result(tmp_path / "warn") == 60
    assert trained(tmp_path / "stop", explodes, "stop")[-1].number == alarm.step < 30
    assert result(tmp_path / "stop") == alarm.step


def test_rolling_back_passes_over_checkpoints_of_what_the_alarm_tells_of(tmp_path: Path) -> None:
    """The loss explodes at update 21 and the alarm needs several updates to be sure: checkpoint 22 is ruined too."""
    steps = trained(tmp_path, explodes, "rollback", checkpoint_every=11, keep_checkpoints=4)
    assert steps[-1].number > 22
    assert result(tmp_path) == 11
    assert "the result is update 11" in steps[-1].notice


@pytest.mark.parametrize("stopped", [99, 23])
def test_rolling_back_without_a_checkpoint_ends_where_the_training_began(tmp_path: Path, stopped: int) -> None:
    """Also of a training that was interrupted: it begins again at its newest checkpoint, which is of no use here."""
    trained(tmp_path, explodes, "rollback", stopped, checkpoint_every=22)
    steps = trained(tmp_path, explodes, "rollback", checkpoint_every=22) if stopped < 60 else []
    assert result(tmp_path) == 0
    assert not steps or "the result is what the training began with" in steps[-1].notice


def test_nothing_that_coin_tosses_taught_is_kept(tmp_path: Path) -> None:
    """Not the best of it either, and no checkpoint, however long before the alarm."""
    steps = trained(tmp_path, tossed, "rollback", checkpoint_every=2, best="probe/helpfulness")
    assert [step.alarm.kind for step in steps if step.alarm] == ["labels-teach-nothing"]
    assert result(tmp_path) == 0
    trained(tmp_path / "kept", tossed, "stop", checkpoint_every=2)
    assert result(tmp_path / "kept") > 30
