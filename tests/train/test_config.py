"""What a pipeline file may say about training."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from cai.train.advantages import ADVANTAGES
from cai.train.config import DpoConfig, KtoConfig, PolicyConfig, RewardConfig, SftConfig, TrainConfig
from cai.train.losses import LOSSES


def test_defaults_are_the_vetted_recipe() -> None:
    sft, dpo = SftConfig(), DpoConfig()
    assert (sft.learning_rate, sft.weight_decay, sft.max_grad_norm) == (2e-4, 0.0, 1.0)
    assert (dpo.learning_rate, dpo.loss, dpo.labels) == (5e-5, "dpo", "soft")
    assert (dpo.recipe.beta, dpo.recipe.log_ratios, dpo.recipe.nll, dpo.recipe.reference) == (0.1, "sum", 0.0, True)
    simpo = DpoConfig(loss="simpo", nll=0.2)
    assert (simpo.recipe.beta, simpo.recipe.log_ratios, simpo.recipe.nll, simpo.recipe.reference) == (
        2,
        "mean",
        0.2,
        False,
    )


def test_numbers_may_come_as_text_as_the_yaml_reader_leaves_them() -> None:
    config = DpoConfig.model_validate({"learning_rate": "1e-4", "epochs": "3", "beta": "0.05"})
    assert (config.learning_rate, config.epochs, config.beta) == (1e-4, 3, 0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rat": 1e-4},
        {"learning_rate": 0},
        {"learning_rate": "nan"},
        {"max_grad_norm": "inf"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"warmup": 1},
        {"schedule": "step"},
        {"beta": 0},
        {"loss": "kto"},
        {"labels": "fuzzy"},
        {"label_smoothing": 0.5, "loss": "robust"},
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DpoConfig.model_validate(wrong)


def test_a_loss_never_ignores_label_smoothing() -> None:
    for name in ("dpo", "hinge", "ipo"):
        with pytest.raises(ValidationError, match="remove it"):
            DpoConfig.model_validate({"loss": name, "label_smoothing": 0.1})
    for name in ("cdpo", "robust"):
        with pytest.raises(ValidationError, match="needs label_smoothing"):
            DpoConfig.model_validate({"loss": name})
        assert DpoConfig.model_validate({"loss": name, "label_smoothing": 0.1}).label_smoothing == 0.1


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [
        (SftConfig, {"patience": 2}, "set best"),
        (SftConfig, {"best": "eval/loss"}, "set holdout above 0"),
        (KtoConfig, {"batch_size": 1}, "greater than or equal to 2"),
        (PolicyConfig, {"method": "grpo", "samples": 1}, "set samples to 2 or more"),
        (PolicyConfig, {"batch_size": 2, "samples": 2, "minibatches": 5}, "too few for 5 minibatches"),
        (PolicyConfig, {"method": "grpo", "lam": 0.9}, "grpo has no lam; remove it, or take method: ppo"),
        (
            PolicyConfig,
            {"method": "rloo", "aggregate": "answer"},
            "rloo has no aggregate; remove it, or take method: ppo",
        ),
        (PolicyConfig, {"kl_corrected": False}, "ppo has no kl_corrected; remove it, or take method: grpo"),
        (PolicyConfig, {"kl": 0, "kl_target": 6}, "set kl above 0, or remove kl_target"),
        (PolicyConfig, {"unfinished": "reduce", "unfinished_reward": 1}, "set it below 0, not 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_remedy(
    kind: type[TrainConfig], wrong: dict[str, object], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        kind.model_validate(wrong)


def test_every_loss_can_be_named_in_a_config_and_every_name_has_a_loss() -> None:
    choices = DpoConfig.model_json_schema()["properties"]["loss"]["enum"]
    assert sorted(choices) == sorted(LOSSES)


def test_a_policy_config_comes_back_from_what_it_was_written_as() -> None:
    for method in ("ppo", "rloo", "grpo"):
        config = PolicyConfig.model_validate({"method": method, "temperature": "0.7"})
        assert PolicyConfig.model_validate(config.model_dump()) == config


def test_every_policy_method_can_be_named_and_every_name_has_advantages() -> None:
    choices = PolicyConfig.model_json_schema()["properties"]["method"]["enum"]
    assert sorted(choices) == sorted(ADVANTAGES)


def test_every_field_is_documented() -> None:
    for kind in (SftConfig, DpoConfig, KtoConfig, RewardConfig, PolicyConfig):
        assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_a_config_loads_without_torch() -> None:
    code = "import sys, cai.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
