"""Our trainers against TRL's, update by update: the same model, rows and settings must give the same training.

    .venv-peers/bin/python -m bench.parity_peer      what TRL computes (needed once for a version of TRL)
    .venv/bin/python -m bench.parity [method ...]    what we compute, and how far that is from it

Twenty updates are compared: the loss within 1e-5, the gradient's norm before clipping within 1e-4 of itself, the final
adapter within 1e-3 of its Frobenius norm. Beside the last stands the same distance against how far the training moved.
All methods' results go to `bench/results/parity.json`; a test holds the bars in every run of the suite.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file

from bench.parity_case import (
    ALPHA,
    COMPLETION_TOKENS,
    GENERATIONS,
    GOLDEN,
    GRADIENT,
    METHODS,
    PROMPTS,
    RANK,
    ROWS,
    UPDATES,
    Group,
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
from cai.models.local.lora import read_adapter
from cai.models.local.roles import Trainee
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.models.local.workbench import Workbench, open_workbench
from cai.models.protocol import Reply, Request
from cai.records import Message
from cai.train.batches import epoch_order
from cai.train.config import DpoConfig, KtoConfig, PolicyConfig, RewardConfig, SftConfig
from cai.train.kto import KtoRow, train_kto
from cai.train.optimise import Step
from cai.train.policy import train_policy
from cai.train.preference import train_dpo
from cai.train.reference import PairRow
from cai.train.reward import train_reward
from cai.train.rollout import PromptRow, Rollout
from cai.train.sft import SftRow, train_sft

RESULTS = Path(__file__).resolve().parent / "results" / "parity.json"
LOSS, GRAD_NORM, ADAPTER = 1e-5, 1e-4, 1e-3
METRIC = 2e-4
"""How far a reward or a log-probability may be away, as a share of itself or, near zero, in nats."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A workbench on the model, the folders around it, and the training that is asked for."""

    workbench: Workbench
    folder: Path
    out: Path
    method: Method

    def options(self) -> dict[str, object]:
        return {
            "learning_rate": self.method.learning_rate,
            "epochs": 1,
            "batch_size": ROWS,
            "schedule": "constant",
            "warmup": 0.0,
            "max_grad_norm": GRADIENT,
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest differences over all updates."""

    loss: float
    grad_norm: float
    adapter: float
    moved: float
    """The adapters' difference as a share of how far training moved the peer's."""
    metrics: dict[str, float]

    @property
    def met(self) -> bool:
        near = self.loss <= LOSS and self.grad_norm <= GRAD_NORM and self.adapter <= ADAPTER
        return near and all(gap <= METRIC for gap in self.metrics.values())


def sft(scene: Scene) -> Trained:
    rows = [SftRow(pair.id, pair.rows[0]) for pair in pairs()]
    return policy_trained(
        scene, lambda trainee: train_sft(SftConfig(**scene.options()), rows, trainee, scene.out, never)
    )


def dpo(scene: Scene) -> Trained:
    """TRL's IPO divides each log-ratio by its answer's length."""
    settings = dict(scene.method.settings)
    loss = {"sigmoid": "dpo"}.get(name := str(settings.pop("loss_type")), name)
    log_ratios = "mean" if loss == "ipo" else "sum"
    config = DpoConfig(**scene.options(), loss=loss, log_ratios=log_ratios, labels="hard", **settings)
    rows = [PairRow(pair.id, *pair.rows) for pair in pairs()]
    return policy_trained(scene, lambda trainee: train_dpo(config, rows, trainee, scene.out, never))


def without_reference(scene: Scene) -> Trained:
    """ORPO's likelihood is of prompt and answer there, CPO's of the answer."""
    settings = dict(scene.method.settings)
    loss = {"sigmoid": "cpo"}.get(name := str(settings.pop("loss_type", "orpo")), name)
    renamed = {"cpo_alpha": "nll", "simpo_gamma": "margin"}
    own = {renamed.get(key, key): value for key, value in settings.items()}
    tokens = "all" if loss == "orpo" else "answer"
    config = DpoConfig(**scene.options(), loss=loss, labels="hard", nll_tokens=tokens, **own)
    rows = [PairRow(pair.id, *pair.rows) for pair in pairs()]
    return policy_trained(scene, lambda trainee: train_dpo(config, rows, trainee, scene.out, never))


def kto(scene: Scene) -> Trained:
    settings = scene.method.settings
    own = {"beta": settings["beta"], **{name: settings[f"{name}_weight"] for name in ("desirable", "undesirable")}}
    rows = [KtoRow(each.id, each.tokens, float(each.desirable)) for each in answers()]
    config = KtoConfig(**scene.options(), **own)
    return policy_trained(scene, lambda trainee: train_kto(config, rows, trainee, scene.out, never))


def reward(scene: Scene) -> Trained:
    """The head is trained together with the adapter, and counts in the gradient's norm."""
    centring = scene.method.settings.get("center_rewards_coefficient", 0.0)
    config = RewardConfig(**scene.options(), centring=centring, labels="hard", holdout=0.0)
    margins = scene.method.margins
    rows = [PairRow(pair.id, *pair.rows, margin=pair.margin if margins else 0.0) for pair in pairs()]
    scorer = scene.workbench.scoring_trainee(scene.folder / "scorer", 0)
    try:
        steps = list(train_reward(config, rows, scorer, scene.out, never))
        return Trained(columns([step.metrics for step in steps if step.metrics]), flat(scorer.state()))
    finally:
        scene.workbench.release(scorer)


def grpo(scene: Scene) -> Trained:
    settings = dict(scene.method.settings)
    aggregate = {"grpo": "answer", "bnpo": "token", "dr_grpo": "constant", "dapo": "rollout"}
    options: dict[str, object] = {
        "aggregate": aggregate[str(settings["loss_type"])],
        "kl": settings["beta"],
        "kl_corrected": settings.get("use_bias_correction_kl", True),
        "scale_advantages": settings.get("scale_rewards") != "none",
    }
    return rounds_trained(scene, "grpo", options)


def rloo(scene: Scene) -> Trained:
    return rounds_trained(scene, "rloo", {"kl": scene.method.settings["beta"]})


TRAINERS: dict[str, Callable[[Scene], Trained]] = {
    "SFT": sft,
    "DPO": dpo,
    "ORPO": without_reference,
    "CPO": without_reference,
    "KTO": kto,
    "Reward": reward,
    "GRPO": grpo,
    "RLOO": rloo,
}
COMPARED = [name for name, method in METHODS.items() if method.trainer in TRAINERS]


def policy_trained(scene: Scene, train: Callable[[Trainee], Iterator[Step]]) -> Trained:
    """From the adapter that both sides start with to the end of the training."""
    trainee = scene.workbench.trainee(scene.folder / "adapter", seed=0)
    try:
        return Trained(columns([step.metrics for step in train(trainee) if step.metrics]), flat(trainee.state()))
    finally:
        scene.workbench.release(trainee)


def rounds_trained(scene: Scene, method: str, options: Mapping[str, object]) -> Trained:
    """From given completions, in the order in which TRL has them. Our `kl` is of whole answers and our `entropy` of
    sampled tokens, TRL's are per token and of all tokens that there might be, so neither is compared."""
    split = scene.method.minibatches
    rounds = {"batch_size": PROMPTS, "samples": GENERATIONS, "minibatches": split, "rollout_epochs": UPDATES // split}
    fixed = {"max_new_tokens": COMPLETION_TOKENS, "epsilon": 1e-8, "method": method}
    config = PolicyConfig(**{**scene.options(), **rounds, **fixed, **options})
    names = [f"prompt-{i}" for i in range(len(groups()))]
    given = dict(zip([names[i] for i in epoch_order(names, config.seed, 0)], groups(), strict=True))
    prompts = [PromptRow(name, (Message("user", name),), given[name].prompt) for name in names]

    def rewards(rollouts: Sequence[Rollout]) -> list[float]:
        return [given[rollout.prompt.id].rewards[rollout.sample] for rollout in rollouts]

    def train(trainee: Trainee) -> Iterator[Step]:
        return train_policy(config, prompts, cast(Trainee, Given(trainee, given)), rewards, scene.out, never)

    found = policy_trained(scene, train)
    theirs = {"clip_ratio": "clip_ratio/region_mean"}
    steps = {theirs.get(name, name): values for name, values in found.steps.items() if name not in ("kl", "entropy")}
    return Trained(steps, found.adapter)


class Given:
    """A trainee whose view says what is given."""

    def __init__(self, trainee: Trainee, given: Mapping[str, Group]) -> None:
        self._given = given
        self.fingerprint = trainee.view().fingerprint
        self.policy_logps, self.reference_logps = trainee.policy_logps, trainee.reference_logps
        self.parameters, self.state, self.save = trainee.parameters, trainee.state, trainee.save

    def view(self) -> "Given":
        return self

    def resting(self) -> AbstractContextManager["Given"]:
        return nullcontext(self)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        met: Counter[str] = Counter()
        replies = []
        for request in requests:
            name = request.messages[0].content
            group, ids = self._given[name], self._given[name].completions[met[name]]
            met[name] += 1
            replies.append(Reply(text(ids), "stop", len(group.prompt), len(ids), ids))
        return replies


def columns(steps: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    return {name: [metrics.get(name) for metrics in steps] for name in steps[0]}


def never() -> bool:
    return False


def open_model(folder: Path) -> Workbench:
    lora = LoraSpec(rank=RANK, alpha=ALPHA)
    return open_workbench(ModelSpec(str(folder / "model"), quantization="none", lora=lora, device="cpu"))


def train(name: str, workbench: Workbench, folder: Path, out: Path) -> Trained:
    method = METHODS[name]
    return TRAINERS[method.trainer](Scene(workbench, folder, out, method))


def peer(name: str) -> Trained:
    """What TRL did, as it was kept."""
    steps = json.loads((GOLDEN / "parity.json").read_text())["methods"][name]
    return Trained(steps, load_file(GOLDEN / "parity.safetensors")[name])


def start(name: str, folder: Path) -> torch.Tensor:
    """The adapter that a method starts from."""
    return flat(read_adapter(folder / ("scorer" if METHODS[name].trainer == "Reward" else "adapter"))[1])


def gap(ours: Trained, theirs: Trained, begun: torch.Tensor) -> Gap:
    shared = ours.steps.keys() & theirs.steps.keys() - {"loss", "grad_norm"}
    apart = (ours.adapter - theirs.adapter).norm()
    return Gap(
        max(abs(o - t) for o, t in said(ours, theirs, "loss")),
        max(abs(o - t) / max(abs(t), 1e-12) for o, t in said(ours, theirs, "grad_norm")),
        (apart / theirs.adapter.norm()).item(),
        (apart / (theirs.adapter - begun).norm()).item(),
        {name: max(abs(o - t) / max(abs(t), 1.0) for o, t in said(ours, theirs, name)) for name in sorted(shared)},
    )


def said(ours: Trained, theirs: Trained, name: str) -> list[tuple[float, float]]:
    """One number of both sides at each update at which both have it."""
    both = zip(ours.steps[name], theirs.steps[name], strict=True)
    return [(o, t) for o, t in both if o is not None and t is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description="How far our trainings are from TRL's.")
    parser.add_argument("methods", nargs="*", default=COMPARED)
    names = parser.parse_args().methods
    torch.set_num_threads(1)
    kept = json.loads((GOLDEN / "parity.json").read_text())
    gaps: dict[str, Gap] = {}
    print(f"{'':15} {'loss':>9} {'grad norm':>9} {'adapter':>9} {'of move':>9} {'metrics':>9}")
    with tempfile.TemporaryDirectory(prefix="cai-parity-") as temporary:
        folder = Path(temporary)
        write_all(folder)
        assert identity(folder) == kept["case"], "this machine makes other rows or weights than the peer had"
        workbench = open_model(folder)
        for name in names:
            found = gap(train(name, workbench, folder, folder / name), peer(name), start(name, folder))
            gaps[name] = found
            numbers = [found.loss, found.grad_norm, found.adapter, found.moved, max(found.metrics.values(), default=0)]
            print(f"{name:15}", *(f"{x:9.1e}" for x in numbers), "met" if found.met else "missed", flush=True)
    bars = {"loss": LOSS, "grad_norm": GRAD_NORM, "adapter": ADAPTER, "metrics": METRIC}
    versions = {"peer": kept["versions"], "ours": {name: version(name) for name in ("torch", "transformers", "peft")}}
    results = [{"name": name, "met": found.met, **asdict(found)} for name, found in gaps.items()]
    told = {"bench": "parity", "bars": bars, "versions": versions, "results": results}
    if set(gaps) == set(COMPARED):
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({"bench": "parity", "results": [{"name": r["name"], "met": r["met"]} for r in results]}))


if __name__ == "__main__":
    main()
