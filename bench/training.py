"""What the training benches share: rows, the model, children that take turns, TRL's settings, and what is reported.

Every side trains the same Llama of 13 M parameters (6 layers of 256, 32,000 tokens) in fp32 with LoRA of rank 16 on all
linear layers, from the same adapter, on the same rows in the same updates, in a process of its own. The processes take
turns, one update at a time; the first one is not counted. TRL runs in its best setting of rows per pass and order
within an update, which one update in each setting decides, for speed and for memory apart.

With `--bf16` ours and TRL also race each other in bf16, in a race of their own. Ours computes the base in bf16 and the
adapter in fp32; TRL loads the model by its path, which gives it fp32 weights, and trains with its own default
`bf16=True`, which is autocast, in the setting that is its fastest in fp32. What comes out is told in the facts, with no
bar, and its losses are held to those of ours in fp32 by a wider tolerance.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from floor import LORA, Work
from measure import RESULTS, compared, report
from memory import model_folder
from turns import ROWS, Asked, Child, Taken, Turns, Way, race

from cai.models.local.heap import suit_memory
from cai.models.local.spec import ModelSpec, Precision
from cai.models.local.workbench import Workbench, open_workbench
from cai.train.batches import Item, epoch_order, plan_batches
from cai.train.config import TrainConfig

SEED = 1
LEARNING_RATE = 2e-4
PROMPT, ANSWER = (60, 300), (20, 200)
"""The shortest and the longest, in tokens."""
TOLERANCE = 1e-3
"""How far two sides' losses of one update may lie apart."""
BF16, BF16_TOLERANCE = ", bf16", 0.05
"""The end of a side's name, and how far its losses may lie from ours in fp32: a number has 8 bits there."""
SIDE, PRODUCTS = 2048, 16
"""Of matrices for as long as an update takes: what is in the way of the one is in the way of the other."""
"""Of the square matrices whose product says how fast the machine is."""
SMALL = 512
"""Our tokens in a pass where memory counts: one or two pairs."""
SETTINGS: dict[str, dict[str, Any]] = {
    "8 × 1": {"per_pass": 8},
    **{
        f"{n} × {ROWS // n}{order}": {"per_pass": n, "ordered": bool(order)}
        for n in (4, 2)
        for order in (", by length", "")
    },
    "1 × 8": {"per_pass": 1},
}
"""TRL's rows in a pass × passes in an update, and whether rows of like length share a pass."""
Ids = tuple[int, ...]
Trials = dict[str, dict[str, float]]
"""TRL's seconds and peak memory (MB) of one update, by setting."""


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    prompt: Ids
    chosen: Ids
    rejected: Ids


def options(about: str | None, ways: Mapping[str, Way]) -> argparse.Namespace:
    """The bench's options. A child does its part in here, and ends."""
    if len(sys.argv) > 2 and sys.argv[1] == "--child":
        asked, turns = Asked(**json.loads(sys.argv[2])), Turns()
        {**ways, "matrix": multiply}[asked.way](asked, turns)
        turns.tell()
        raise SystemExit(0)
    if find_spec("trl") is None:
        raise SystemExit(
            "this Python has no trl: run `make bench-peers`, and then .venv-peers/bin/python with this file"
        )
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="updates that count")
    parser.add_argument("--bf16", action="store_true", help="also race ours and TRL in bf16, with no bar")
    parser.add_argument("--choose", action="store_true", help="only try TRL's settings, and keep what was found")
    return parser.parse_args()


def pairs(batches: int) -> list[Pair]:
    """Random ids of random lengths."""
    import torch

    generator = torch.Generator().manual_seed(SEED)

    def ids(shortest: int, longest: int) -> Ids:
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        return tuple(torch.randint(300, 32_000, (length,), generator=generator).tolist())

    return [Pair(f"pair-{i}", ids(*PROMPT), ids(*ANSWER), ids(*ANSWER)) for i in range(batches * ROWS)]


def order(items: Sequence[Item], asked: Asked) -> list[list[int]]:
    """The rows of each update in the order in which this side reads them: those of our own plan."""
    if asked.ordered:
        found = [list(b.rows) for b in plan_batches(TrainConfig(learning_rate=1.0, batch_size=ROWS), items)]
    else:
        rows = epoch_order([item.id for item in items], 0, 0)
        found = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    return found if asked.only is None else [found[asked.only]]


def our_config(asked: Asked) -> dict[str, object]:
    """What our trainers are told, whatever the method."""
    return {
        "learning_rate": LEARNING_RATE,
        "batch_size": ROWS,
        "schedule": "constant",
        "warmup": 0.0,
        "micro_tokens": asked.micro_tokens,
    }


def opened(asked: Asked) -> Workbench:
    """Ours, with memory handed out as `cai train` does it where there is plenty; where peaks count, as glibc does."""
    if asked.micro_tokens != SMALL:
        suit_memory(needed=0, room=1)
    precision: Precision = "bf16" if asked.bf16 else "fp32"
    return open_workbench(ModelSpec(asked.model, quantization="none", lora=LORA, device="cpu", precision=precision))


def trl_config(asked: Asked) -> dict[str, object]:
    """The same for TRL's."""
    return {
        "output_dir": str(Path(asked.folder) / "trl"),
        "per_device_train_batch_size": asked.per_pass,
        "gradient_accumulation_steps": ROWS // asked.per_pass,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "num_train_epochs": 1,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "max_length": None,
        "bf16": asked.bf16,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


def lora_config(*, scores: bool = False) -> object:
    from peft import LoraConfig

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    kind = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if scores else {"task_type": "CAUSAL_LM"}
    return LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0.0, bias="none", target_modules=names, **kind)


def plain_model(asked: Asked, *, scores: bool = False) -> object:
    """The model in fp32; in bf16 only where it lies, so that TRL loads it as it does that."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if asked.bf16:
        return asked.model
    if scores:
        return AutoModelForSequenceClassification.from_pretrained(asked.model, num_labels=1, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)


def load_adapter(model: object, asked: Asked) -> None:
    """The adapter that ours begins with, into a PEFT model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(asked.adapter / "adapter_model.safetensors"))


def run_trl(
    trainer_class: type, asked: Asked, turns: Turns, rows: Sequence[Mapping[str, object]], **more: object
) -> None:
    """A trainer as it is, on rows that need no preparation, update by update."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

    def begin(*_: object, **__: object) -> None:
        turns.begin()

    def end(*_: object, logs: Mapping[str, float], **__: object) -> None:
        if "loss" in logs:
            turns.end(logs["loss"])

    given = type("Given", (trainer_class,), {"_prepare_dataset": lambda _, dataset, *__, **___: dataset})
    data = Dataset.from_list([dict(row) for row in rows])
    trainer = given(train_dataset=data, processing_class=AutoTokenizer.from_pretrained(asked.model), **more)
    load_adapter(trainer.model, asked)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(type("InTurn", (TrainerCallback,), {"on_step_begin": begin, "on_log": end})())
    trainer.train()


def multiply(asked: Asked, turns: Turns) -> None:
    """How fast the machine multiplies large matrices, for as many turns as there are batches."""
    import torch

    left, right, out = (torch.rand(SIDE, SIDE) for _ in range(3))
    for _ in range(asked.batches):
        turns.begin()
        for _ in range(PRODUCTS):
            torch.mm(left, right, out=out)
        turns.end()


@dataclass(frozen=True, slots=True)
class Chosen:
    """TRL's settings for speed and for memory."""

    fastest: str
    leanest: str

    @classmethod
    def among(cls, trials: Trials) -> "Chosen":
        fastest = min(trials, key=lambda name: trials[name]["seconds"])
        return cls(fastest, min(trials, key=lambda name: trials[name]["peak_mb"]))


@dataclass(frozen=True, slots=True)
class Bars:
    trl: float
    memory: float
    """TRL's peak over ours."""
    lean: float | None = None
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """One method: its script, what its batches ask for, and what is wanted of it."""

    name: str
    script: str
    work: Sequence[Work]
    bars: Bars
    pieces: int = 1
    """Ours for each batch: two where the reference comes first."""
    whole: bool = False
    """Whether TRL is the same method only if an update is one pass."""


def run(bench: Bench, asked: argparse.Namespace) -> None:
    """Choose TRL's settings, race, and report."""
    with tempfile.TemporaryDirectory(prefix="cai-training-") as folder:
        model_folder("13M", Path(folder))
        batches = len(bench.work)
        start = Asked("start", folder, batches)
        Child(bench.script, start).close()
        trials = {} if asked.choose else kept_trials(bench.name)
        if not trials:
            trials = tried(bench, replace(start, way="TRL"))
        if asked.choose:
            return
        chosen = Chosen.among(trials)
        sides = {
            "ours": (replace(start, way="ours"), bench.pieces),
            "TRL": (replace(start, way="TRL", **SETTINGS[chosen.fastest]), 1),
            **({"lean": (replace(start, way="lean"), 1)} if bench.bars.lean else {}),
            "matrix": (replace(start, way="matrix"), 1),
        }
        found = race(bench.script, sides, batches)
        small = replace(start, way="ours", micro_tokens=SMALL)
        found |= race(bench.script, {"ours, small passes": (small, bench.pieces)}, batches)
        if asked.bf16:
            half = {name: (replace(side, bf16=True), n) for name, (side, n) in sides.items() if name in ("ours", "TRL")}
            found |= race(bench.script, {f"{name}{BF16}": side for name, side in half.items()}, batches)
    conclude(bench, found, trials, chosen)


def kept_trials(name: str) -> Trials:
    """What was found when TRL's settings were tried last time."""
    path = RESULTS / f"{name}.json"
    found: Trials = json.loads(path.read_text())["facts"]["trl_settings"] if path.exists() else {}
    return found


def tried(bench: Bench, asked: Asked) -> Trials:
    """One update of TRL, the heaviest, in each of its settings."""
    heaviest = max(range(len(bench.work)), key=lambda k: bench.work[k].trained)
    trials: Trials = {}
    for name, setting in SETTINGS.items():
        if bench.whole and setting["per_pass"] < ROWS:
            continue
        side = f"TRL at {name}"
        found = race(bench.script, {side: (replace(asked, only=heaviest, **setting), 1)}, 1)[side]
        trials[name] = {"seconds": round(found.seconds[0], 2), "peak_mb": round(found.peak / 1e6)}
        print(f"  {side}: {trials[name]}", flush=True)
    keep_trials(bench.name, trials)
    return trials


def keep_trials(name: str, trials: Trials) -> None:
    path = RESULTS / f"{name}.json"
    empty: dict[str, Any] = {"bench": name, "results": [], "facts": {}}
    kept = json.loads(path.read_text()) if path.exists() else empty
    kept["facts"]["trl_settings"] = trials
    path.write_text(json.dumps(kept, indent=1) + "\n")


def conclude(bench: Bench, found: Mapping[str, Taken], trials: Trials, chosen: Chosen) -> None:
    """Losses must be equal, then rates are compared. Sides in bf16 are only told of."""
    ours, trl, small = found["ours"], found["TRL"], found["ours, small passes"]
    gaps = {name: gap(ours, found[name]) for name in found if name not in ("ours", "matrix")}
    same = (each <= (BF16_TOLERANCE if name.endswith(BF16) else TOLERANCE) for name, each in gaps.items())
    assert all(same), (gaps, {name: side.losses for name, side in found.items()})
    speed = statistics.median(PRODUCTS * 2 * SIDE**3 / seconds for seconds in found["matrix"].seconds[1:])
    linear = statistics.median(work.tokens / (work.flops / speed) for work in bench.work[1:])
    floor = statistics.median(work.tokens / ((work.flops + work.attention) / speed) for work in bench.work[1:])
    share = round(rate(bench, ours) / floor, 3)
    results = [
        compared(
            f"tokens/s against TRL at {chosen.fastest}", rate(bench, ours), rate(bench, trl), bench.bars.trl, share
        )
    ]
    if bench.bars.lean:
        results.append(
            compared("tokens/s against a lean loop", rate(bench, ours), rate(bench, found["lean"]), bench.bars.lean)
        )
    if bench.bars.floor:
        results.append(compared("tokens/s against the floor", rate(bench, ours), floor, bench.bars.floor))
    theirs = trials[chosen.leanest]["peak_mb"] * 1e6
    results.append(
        compared(f"updates in a GB against TRL at {chosen.leanest}", 1e9 / small.peak, 1e9 / theirs, bench.bars.memory)
    )
    facts = {
        "gflops": round(speed / 1e9, 1),
        "floor": {"linear": round(linear), "with attention": round(floor)},
        "tokens/s": {name: round(rate(bench, side), 2) for name, side in found.items() if name != "matrix"},
        "loss_gap": gaps,
        "losses": {name: side.losses for name, side in found.items() if name != "matrix"},
        "seconds": {name: side.seconds for name, side in found.items()},
        "peak_mb": {name: round(side.peak / 1e6) for name, side in found.items() if name != "matrix"},
        "trl_settings": trials,
        "trl": version("trl"),
        "tokens": [work.tokens for work in bench.work],
    }
    print(json.dumps(facts, indent=1))
    report(bench.name, results, facts)


def rate(bench: Bench, side: Taken) -> float:
    """Tokens per second, the median over the updates that count."""
    return statistics.median(w.tokens / s for w, s in zip(bench.work[1:], side.seconds[1:], strict=True))


def gap(ours: Taken, other: Taken) -> float:
    return max(abs(a - b) for a, b in zip(ours.losses, other.losses, strict=True))
