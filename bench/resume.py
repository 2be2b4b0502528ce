"""Whether a training that was stopped or killed ends as if it never was: every method, at every one of twelve updates.

    python -m bench.resume [--only NAME ...]

The embedded model, rows that no batch divides, two epochs and more, forward passes smaller than a batch; dropout is on
for `sft`, `reward` and `dpo`. Stopped after each update in turn, and killed by SIGKILL in a process of its own, the
same call must go on and leave a folder with the same bytes: sample order, losses, learning rates and gradient norms in
`metrics.jsonl`, and the adapter. Results go to `bench/results/resume.json`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cai.errors import Interrupted
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.records import Message

if TYPE_CHECKING:
    from cai.models.local.workbench import Workbench
    from cai.train.optimise import Step
    from cai.train.reference import PairRow

RESULTS = Path(__file__).resolve().parent / "results" / "resume.json"
UPDATES = 12
KILLED_AT = 7
ROWS = 17
"""In batches of 3 these are 6 updates an epoch, the last one smaller."""
COMMON = {"batch_size": 3, "epochs": 2, "micro_tokens": 90, "checkpoint_every": 5, "learning_rate": 1e-3, "seed": 5}
Stop = Callable[[], bool]


def rows(workbench: "Workbench") -> "list[PairRow]":
    from cai.train.reference import PairRow

    made = []
    for number in range(ROWS):
        asked = [Message("user", f"How do I paint a {'very ' * (number % 4)}small fence, number {number}?")]
        chosen = workbench.encode(asked, "Take a brush and go along the boards." + " Then wait." * (number % 3))
        rejected = workbench.encode(asked, "I will not say." + " No." * (number % 5))
        made.append(PairRow(f"pair-{number}", chosen, rejected, 0.6 + 0.02 * number))
    return made


def sft(workbench: "Workbench", folder: Path, stop: Stop) -> "Iterator[Step]":
    from cai.train.config import SftConfig
    from cai.train.sft import SftRow, train_sft

    own = [SftRow(pair.id, pair.chosen, 1 + 0.1 * i) for i, pair in enumerate(rows(workbench))]
    return train_sft(SftConfig.model_validate(COMMON), own, workbench.trainee(None, 1), folder, stop)


def dpo(workbench: "Workbench", folder: Path, stop: Stop) -> "Iterator[Step]":
    from cai.train.config import DpoConfig
    from cai.train.preference import train_dpo

    config = DpoConfig.model_validate({**COMMON, "dropout": True})
    return train_dpo(config, rows(workbench), workbench.trainee(None, 1), folder, stop)


def reward(workbench: "Workbench", folder: Path, stop: Stop) -> "Iterator[Step]":
    from cai.train.config import RewardConfig
    from cai.train.reward import train_reward

    config = RewardConfig.model_validate({**COMMON, "holdout": 0.0})
    return train_reward(config, rows(workbench), workbench.scoring_trainee(None, 1), folder, stop)


def kto(workbench: "Workbench", folder: Path, stop: Stop) -> "Iterator[Step]":
    from cai.train.config import KtoConfig
    from cai.train.kto import KtoRow, train_kto

    pairs = rows(workbench)
    own = [KtoRow(p.id, p.chosen if i % 2 else p.rejected, float(i % 2)) for i, p in enumerate(pairs)]
    return train_kto(KtoConfig.model_validate(COMMON), own, workbench.trainee(None, 1), folder, stop)


def ppo(workbench: "Workbench", folder: Path, stop: Stop) -> "Iterator[Step]":
    """Three rounds of four updates each, so that most stops fall within a round."""
    from cai.train.actor_critic import ActorCritic
    from cai.train.config import PolicyConfig
    from cai.train.policy import train_policy
    from cai.train.rewards import from_function
    from cai.train.rollout import PromptRow

    shared = {name: COMMON[name] for name in ("micro_tokens", "checkpoint_every", "seed")}
    how = {"batch_size": 2, "samples": 3, "rollout_epochs": 2, "minibatches": 2, "max_new_tokens": 12, "kl_target": 0.5}
    config = PolicyConfig.model_validate({"method": "ppo", "learning_rate": 1e-3, **shared, **how})
    prompts = []
    for number in range(5):
        asked = (Message("user", f"How do I paint fence number {number}?"),)
        prompts.append(PromptRow(f"prompt-{number}", asked, workbench.encode_prompt(asked)))
    actor = ActorCritic(workbench.trainee(None, 1), workbench.scoring_trainee(None, 2, "zero"))
    return train_policy(config, prompts, actor, from_function(lambda _, text: len(text) % 7 / 7), folder, stop)


METHODS: dict[str, Callable[["Workbench", Path, Stop], "Iterator[Step]"]] = {
    "sft": sft, "dpo": dpo, "kto": kto, "reward": reward, "ppo": ppo,
}  # fmt: skip


def opened(method: str) -> "Workbench":
    import torch

    from cai.models.local.workbench import open_workbench

    torch.set_num_threads(1)
    dropout = 0.2 if method in ("sft", "dpo", "reward") else 0.0
    return open_workbench(ModelSpec("tiny", quantization="nf4", lora=LoraSpec(rank=4, dropout=dropout)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def polled(method: str, folder: Path) -> tuple[int, int]:
    """How often `stop` is asked before the first update, and how many updates there are."""
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return False

    first, total = 0, 0
    for step in METHODS[method](opened(method), folder, stop):
        first, total = first or asked[0], step.total
    return first, total


def stopped(method: str, folder: Path, before: int, after: int) -> None:
    """Stop after an update, and go on."""
    polls = count()
    try:
        for _ in METHODS[method](opened(method), folder, lambda: next(polls) == before - 1 + after):
            pass
    except Interrupted:
        for _ in METHODS[method](opened(method), folder, lambda: False):
            pass
        return
    raise SystemExit(f"{method} was not stopped after update {after}")


def killed(method: str, folder: Path) -> None:
    """Killed in the middle of an update, and gone on with."""
    command = [sys.executable, "-m", "bench.resume", "--child", method, str(folder)]
    done = subprocess.run(command, check=False, timeout=600, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr[-2000:])
    for _ in METHODS[method](opened(method), folder, lambda: False):
        pass


def child(method: str, folder: Path) -> None:
    for step in METHODS[method](opened(method), folder, lambda: False):
        if step.number == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def compared(method: str, work: Path) -> dict[str, object]:
    straight = work / method / "straight"
    before, updates = polled(method, straight)
    wanted = contents(straight)
    same = 0
    for after in range(1, updates):
        folder = work / method / f"stopped-{after}"
        stopped(method, folder, before, after)
        same += contents(folder) == wanted
    folder = work / method / "killed"
    killed(method, folder)
    alike = contents(folder) == wanted
    print(
        f"{method:8} {updates} updates: {same} of {updates - 1} stops and {int(alike)} of 1 kill end in the same bytes"
    )
    met = updates == UPDATES and same == updates - 1 and alike
    return {"name": method, "updates": updates, "stops": updates - 1, "same": same, "killed_same": alike, "met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child[0], Path(asked.child[1]))
        return
    with tempfile.TemporaryDirectory() as work:
        results = [compared(method, Path(work)) for method in asked.only]
    if asked.only == list(METHODS):
        RESULTS.write_text(json.dumps({"bench": "resume", "results": results}, indent=1) + "\n")
    print(json.dumps({"bench": "resume", "results": results}))


if __name__ == "__main__":
    main()
