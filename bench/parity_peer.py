"""The peer's half of the parity bench: TRL does every training of `parity_case`, and what it found is the reference.

    .venv-peers/bin/python -m bench.parity_peer [method ...]

TRL's trainers run as they are, on text that they tokenise themselves; that the tokens are the recipe's is checked. Only
generation is replaced by given completions, and a rollout is not shuffled. Losses, gradient norms and final adapters go
to `tests/train/golden/`. What each method computes stands beside it, as read in TRL 1.16 and confirmed by the numbers.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench.parity_case import (
    COMPLETION_TOKENS,
    GENERATIONS,
    GOLDEN,
    GRADIENT,
    METHODS,
    PROMPTS,
    ROWS,
    UPDATES,
    Method,
    Trained,
    answers,
    flat,
    groups,
    identity,
    pairs,
    text,
    write_all,
)

PACKAGES = ("trl", "transformers", "peft", "accelerate", "torch")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
PAIRED = tuple(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies"))
LOGPS = ("logps/chosen", "logps/rejected")
POLICY = ("reward", "kl", "entropy", "clip_ratio/region_mean")


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the model and the adapters lie, and the training that is asked for."""

    folder: Path
    method: Method

    def model(self) -> object:
        """The model with the adapter on it, which is trained."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder / "model", dtype=torch.float32)
        return PeftModel.from_pretrained(model, self.folder / "adapter", is_trainable=True)

    def scorer(self) -> object:
        """The same with a scalar head in place of the vocabulary's."""
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        base = self.folder / "model"
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        return PeftModel.from_pretrained(model, self.folder / "scorer", is_trainable=True)

    def tokenizer(self) -> object:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "model")

    def options(self, **more: object) -> dict[str, object]:
        """What all trainings have in common, the method's own settings, and what its trainer asks for."""
        return {
            "output_dir": str(self.folder / "out"),
            "per_device_train_batch_size": ROWS,
            "learning_rate": self.method.learning_rate,
            "lr_scheduler_type": "constant",
            "max_grad_norm": GRADIENT,
            "num_train_epochs": 1,
            "weight_decay": 0.0,
            "optim": "adamw_torch",
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "train_sampling_strategy": "sequential",
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            **self.method.settings,
            **more,
        }


def sft(scene: Scene) -> Trained:
    """Σ nll over the completion tokens of a batch / their number. (sft_trainer.py, 1611-1618)"""
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": text(pair.prompt), "completion": text(pair.chosen)} for pair in pairs()]
    args = SFTConfig(**scene.options(max_length=None))
    trainer = SFTTrainer(scene.model(), args=args, train_dataset=dataset(rows), processing_class=scene.tokenizer())
    masked = [[-100] * len(pair.prompt) + list(pair.chosen) for pair in pairs()]
    require_rows(trainer.train_dataset, input_ids=[pair.prompt + pair.chosen for pair in pairs()], labels=masked)
    return trained(trainer)


def reward(scene: Scene) -> Trained:
    """The mean over pairs of −log σ(r_w − r_l − margin), with a coefficient c that of c · (r_w + r_l)² added; r is the
    head at the last token that is not padding. The head is trained with the adapter. (reward_trainer.py, 785-795)
    """
    from trl import RewardConfig, RewardTrainer

    margins = [{"margin": pair.margin} if scene.method.margins else {} for pair in pairs()]
    rows = [row | margin for row, margin in zip(preferences(), margins, strict=True)]
    args = RewardConfig(**scene.options(max_length=None))
    trainer = RewardTrainer(scene.scorer(), args=args, train_dataset=dataset(rows), processing_class=scene.tokenizer())
    whole = {f"{kind}_ids": [pair.prompt + getattr(pair, kind) for pair in pairs()] for kind in ("chosen", "rejected")}
    require_rows(trainer.train_dataset, **whole)
    return trained(trainer, "mean_reward", "margin", "accuracy")


def dpo(scene: Scene) -> Trained:
    """The mean over pairs of `sigmoid` −log σ(βΔ), which knows no label smoothing, `hinge` max(0, 1 − βΔ), `robust`
    [−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε), each on log-probabilities summed over a completion, or `ipo`
    (Δ − 1/(2β))² on log-ratios divided by their completion's length. Rewards are β times the summed log-ratio for all
    of them; the reference is a frozen copy of the adapter. (dpo_trainer.py, 1304, 1387-1432, 1528, 1581)
    """
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(**scene.options(max_length=None))
    trainer = DPOTrainer(
        scene.model(), args=args, train_dataset=dataset(preferences()), processing_class=scene.tokenizer()
    )
    ids = {f"{kind}_ids": [getattr(pair, kind) for pair in pairs()] for kind in ("prompt", "chosen", "rejected")}
    require_rows(trainer.train_dataset, **ids)
    return trained(trainer, *PAIRED, *LOGPS)


def kto(scene: Scene) -> Trained:
    """[Σ λ_D (1 − σ(β(r − z))) over the desirable rows + Σ λ_U (1 − σ(β(z − r))) over the others] / all rows of the
    batch; r is the summed log-ratio. z is the mean of the summed log-ratios of mismatched rows, clamped at zero after
    the mean, without gradient: each prompt with the completion of the row before it, the first with the batch's last.
    (kto_trainer.py, 1151, 1443-1444, 1453, 1470, 1480, 1548)
    """
    from trl import KTOConfig, KTOTrainer

    rows = [
        {"prompt": text(row.tokens.prompt_ids), "completion": text(row.tokens.completion_ids), "label": row.desirable}
        for row in answers()
    ]
    args = KTOConfig(**scene.options(max_length=None))
    trainer = KTOTrainer(scene.model(), args=args, train_dataset=dataset(rows), processing_class=scene.tokenizer())
    completions = [row.tokens.completion_ids for row in answers()]
    before = [completions[i - 1 if i % ROWS else i + ROWS - 1] for i in range(len(completions))]
    prompts = [row.tokens.prompt_ids for row in answers()]
    require_rows(trainer.train_dataset, prompt_ids=prompts, completion_ids=completions, KL_completion_ids=before)
    return trained(trainer, *PAIRED[:3], *LOGPS, "kl")


def orpo(scene: Scene) -> Trained:
    """nll − β · mean of log σ(o), o = (p_w − p_l) − [log1mexp(p_w) − log1mexp(p_l)] with p averaged over a completion's
    tokens. The nll is that of prompts and chosen answers together, every token of the batch but each row's first
    counting the same. Rewards are β·p. (experimental/orpo/orpo_trainer.py, 693-697, 777-806, 848)
    """
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    args = ORPOConfig(**scene.options())
    trainer = ORPOTrainer(
        scene.model(), args=args, train_dataset=dataset(preferences()), processing_class=scene.tokenizer()
    )
    require_labels(trainer.train_dataset)
    return trained(trainer, *PAIRED, *LOGPS, "nll_loss")


def cpo(scene: Scene) -> Trained:
    """mean over pairs of −(1−ε) log σ(βd) − ε log σ(−βd), + α · nll of the chosen answers, without their prompts, every
    token of the batch counting the same. d is the difference of summed log-probabilities; with `simpo` it is that of
    averaged ones less γ/β, and α, which is 1 unless set, stays. Rewards are β times the log-probability that d is made
    of. (experimental/cpo/cpo_trainer.py, 712-732, 840-850, 890)
    """
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    args = CPOConfig(**scene.options())
    trainer = CPOTrainer(
        scene.model(), args=args, train_dataset=dataset(preferences()), processing_class=scene.tokenizer()
    )
    require_labels(trainer.train_dataset)
    return trained(trainer, *PAIRED, *LOGPS, "nll_loss")


def grpo(scene: Scene) -> Trained:
    """Advantage: reward less the group's mean, over the group's deviation (of n − 1) + 1e-4 unless rewards are not
    scaled. Per token −min(ratio · A, clip(ratio, 0.8, 1.2) · A) + β · k3, k3 = e^d − d − 1 with d = ref − new, which
    `use_bias_correction_kl` (on by default) multiplies by the ratio, with its gradient. The old log-probabilities are
    the training forward's at the rollout. `grpo`: mean over answers of the mean over tokens; `bnpo`: over the tokens of
    a minibatch; `dr_grpo`: sum / (rows · longest allowed); `dapo`: sum / (tokens of the rollout / its minibatches).
    (grpo_trainer.py, 2643-2656, 2763-2787, 3091-3118, 3153-3175)
    """
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    grpo_trainer.shuffle_sequence_dict = as_it_is
    trainer = GRPOTrainer(
        scene.model(),
        reward_funcs=given_rewards,
        args=GRPOConfig(**rollouts(scene)),
        train_dataset=dataset([{"prompt": text(group.prompt)} for group in groups()]),
        processing_class=scene.tokenizer(),
        rollout_func=lambda prompts, _: {**given_completions(prompts), "logprobs": None},
    )
    return trained(trainer, *POLICY)


def rloo(scene: Scene) -> Trained:
    """R = reward − β · Σ over tokens of (old − ref), once, at the rollout; A = R less the mean of the others in the
    group. Per answer −min(ratio · A, clip(ratio, 0.8, 1.2) · A) with the ratio of the whole answer, e^(Σ new − Σ old);
    the mean over answers, whatever their length. (rloo_trainer.py, 1610, 1669-1692, 1822-1833)
    """
    from trl import RLOOConfig, RLOOTrainer
    from trl.trainer import rloo_trainer

    def generate(_: object, prompts: Sequence[str]) -> tuple[object, object, object]:
        found = given_completions(prompts)
        return found["prompt_ids"], found["completion_ids"], list(map(text, found["completion_ids"]))

    rloo_trainer.shuffle_sequence_dict = as_it_is
    trainer = type("GivenRLOOTrainer", (RLOOTrainer,), {"_generate": generate})(
        scene.model(),
        reward_funcs=given_rewards,
        args=RLOOConfig(**rollouts(scene)),
        train_dataset=dataset([{"prompt": text(group.prompt)} for group in groups()]),
        processing_class=scene.tokenizer(),
    )
    return trained(trainer, *POLICY)


TRAINERS: dict[str, Callable[[Scene], Trained]] = {
    "SFT": sft,
    "Reward": reward,
    "DPO": dpo,
    "KTO": kto,
    "ORPO": orpo,
    "CPO": cpo,
    "GRPO": grpo,
    "RLOO": rloo,
}


def rollouts(scene: Scene) -> dict[str, object]:
    split = scene.method.minibatches
    return scene.options(
        per_device_train_batch_size=PROMPTS * GENERATIONS // split,
        num_generations=GENERATIONS,
        steps_per_generation=split,
        num_iterations=UPDATES // split,
        max_completion_length=COMPLETION_TOKENS,
        shuffle_dataset=False,
        temperature=1.0,
        epsilon=0.2,
    )


def preferences() -> list[dict[str, object]]:
    return [{kind: text(getattr(pair, kind)) for kind in ("prompt", "chosen", "rejected")} for pair in pairs()]


def given_completions(prompts: Sequence[str]) -> dict[str, list[list[int]]]:
    """Each prompt stands there as often as it has completions."""
    known, met = {text(group.prompt): group for group in groups()}, Counter[str]()
    completions = []
    for prompt in prompts:
        completions.append(list(known[prompt].completions[met[prompt]]))
        met[prompt] += 1
    return {"prompt_ids": [list(known[prompt].prompt) for prompt in prompts], "completion_ids": completions}


def given_rewards(prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
    known = {
        (text(group.prompt), ids): reward
        for group in groups()
        for ids, reward in zip(group.completions, group.rewards, strict=True)
    }
    return [known[prompt, tuple(ids)] for prompt, ids in zip(prompts, completion_ids, strict=True)]


def as_it_is(rows: Mapping[str, object]) -> Mapping[str, object]:
    return rows


def dataset(rows: Sequence[Mapping[str, object]]) -> object:
    from datasets import Dataset

    return Dataset.from_list([dict(row) for row in rows])


def require_rows(prepared: Iterable[Mapping[str, Any]], **expected: Sequence[Sequence[int]]) -> None:
    """TRL's tokens are the recipe's, row for row."""
    for i, row in enumerate(prepared):
        for name, rows in expected.items():
            assert list(row[name]) == list(rows[i]), (i, name, row[name], rows[i])


def require_labels(prepared: Iterable[Mapping[str, Any]]) -> None:
    expected: dict[str, list[list[int]]] = {}
    for kind in ("chosen", "rejected"):
        expected[f"{kind}_input_ids"] = [[*pair.prompt, *getattr(pair, kind)] for pair in pairs()]
        expected[f"{kind}_labels"] = [[-100] * len(pair.prompt) + list(getattr(pair, kind)) for pair in pairs()]
    require_rows(prepared, **expected)


def trained(trainer: Any, *metrics: str) -> Trained:
    from peft import get_peft_model_state_dict
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    said = [name for name in ("loss", "grad_norm", *metrics) if any(name in log for log in logs)]
    steps = {name: [log.get(name) for log in logs] for name in said}
    return Trained(steps, flat(get_peft_model_state_dict(trainer.model)).detach())


def train(names: Iterable[str], folder: Path) -> dict[str, Trained]:
    done = {}
    for name in names:
        method = METHODS[name]
        done[name] = TRAINERS[method.trainer](Scene(folder, method))
        losses = done[name].steps["loss"]
        print(f"{name:15} {len(losses)} updates, loss {losses[0]:.6f} to {losses[-1]:.6f}", flush=True)
    return done


def rounded(value: float | None) -> float | None:
    """As many digits as fp32 has."""
    return None if value is None else float(f"{value:.9g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What TRL computes, kept for the comparison.")
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    names = parser.parse_args().methods
    os.environ.update(OFFLINE)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="cai-parity-") as folder:
        write_all(Path(folder))
        case, done = identity(Path(folder)), train(names, Path(folder))
    path, tensors = GOLDEN / "parity.json", GOLDEN / "parity.safetensors"
    GOLDEN.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    same = kept.get("case") == case
    methods = kept["methods"] if same else {}
    adapters = load_file(tensors) if same else {}
    for name, result in done.items():
        methods[name] = {key: list(map(rounded, values)) for key, values in result.steps.items()}
        adapters[name] = result.adapter
    found = {"versions": {name: version(name) for name in PACKAGES}, "case": case, "methods": methods}
    path.write_text(json.dumps(found, indent=1) + "\n")
    save_file(adapters, tensors)


if __name__ == "__main__":
    main()
