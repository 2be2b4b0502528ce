"""Training in bf16: the base in 16 bits, what is trained in 32, and losses that rounding alone tells from fp32's."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cai.models.local.spec import LoraSpec, ModelSpec, Precision
from cai.models.local.workbench import open_workbench
from cai.train.config import DpoConfig, RewardConfig, SftConfig
from cai.train.optimise import Step
from cai.train.preference import train_dpo
from cai.train.reference import PairRow
from cai.train.reward import train_reward
from cai.train.sft import SftRow, train_sft

SAME = 0.02
"""How far the losses of one update may lie apart, as a share: a number has 8 bits in bf16, and errors of 2⁻⁹ add up
over layers and updates."""


def never() -> bool:
    return False


def trained(
    base: Path, method: str, precision: Precision, rows: tuple[list[SftRow], list[PairRow]], folder: Path
) -> list[Step]:
    lora = LoraSpec(rank=4, alpha=8)
    workbench = open_workbench(ModelSpec(str(base), quantization="none", lora=lora, device="cpu", precision=precision))
    how = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 5}
    match method:
        case "sft":
            return list(train_sft(SftConfig(**how), rows[0], workbench.trainee(None, 7), folder, never))
        case "dpo":
            return list(train_dpo(DpoConfig(**how), rows[1], workbench.trainee(None, 7), folder, never))
        case _:
            scorer = workbench.scoring_trainee(None, 7)
            return list(train_reward(RewardConfig(**how), rows[1], scorer, folder, never))


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_losses_in_bf16_fall_as_those_in_fp32_do(
    random_llama: Path, sft_rows: list[SftRow], pair_rows: list[PairRow], tmp_path: Path, method: str
) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        steps = trained(random_llama, method, precision, (sft_rows, pair_rows), tmp_path / precision)
        losses[precision] = [step.metrics["loss"] for step in steps]
    ours, exact = losses["bf16"], losses["fp32"]
    assert ours != exact
    assert ours == pytest.approx(exact, rel=SAME)
    assert ours[-1] < 0.9 * ours[0]
    if method == "dpo":
        assert ours[0] == pytest.approx(math.log(2), abs=1e-5)
    saved = load_file(tmp_path / "bf16" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_fp32_on_a_cpu_trains_the_bytes_that_were_trained_before_it_could_be_asked_for(
    random_llama: Path, sft_rows: list[SftRow], pair_rows: list[PairRow], tmp_path: Path
) -> None:
    for precision in ("auto", "fp32"):
        trained(random_llama, "dpo", precision, (sft_rows, pair_rows), tmp_path / precision)
    names = [path.relative_to(tmp_path / "auto") for path in (tmp_path / "auto").rglob("*") if path.is_file()]
    # A manifest holds the model's fingerprint, of which a precision that is asked for is a part.
    names = [name for name in names if name.name != "manifest.json"]
    assert {"adapter_model.safetensors", "metrics.jsonl"} <= {name.name for name in names}
    for name in names:
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "fp32" / name).read_bytes(), name
