"""GRPO: rounds of our trainer against rounds of TRL's, answers sampled, rewarded and learnt from.

    .venv-peers/bin/python bench/grpo.py [--rounds 5] [--choose]

Each round has 8 prompts of 60 to 300 tokens and 8 answers to each, sampled at temperature 1, and makes one update. An
answer ends at any of a fixed random set of ids, so many that it has about 48 tokens, or at 128. Its reward is the share
of its ids in the lower half of the vocabulary, which both sides count in the same function. The loss is that of
`dr_grpo`, whose averages do not depend on how an update is split into passes, with a price on the divergence from the
model without the adapter, so that both sides read the reference. With one update of a round neither side needs a pass
of its own for the log-probabilities before it.

The two draw differently, so their answers are others of the same lengths and rewards on average. What is compared is
tokens per second, every answer counted with its prompt, each side by its own. That both do the same work is checked by
a third side: TRL, given our answers instead of sampling, must find our losses and gradient norms, round after round.
What it takes is also what TRL's updates take on our very tokens. How the sides take turns stands in `training`.

TRL runs in its best setting for speed and for memory apart: answers in a pass × passes in an update, and how many
answers it samples at once, 64 unless it is said. Passes of more than 16 answers are left out: its peak grows by half a
gigabyte with each. For memory ours has small passes, and samples 16 answers at once.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import training
from measure import compared, report
from memory import model_folder
from training import SMALL, Chosen, Trials
from turns import ROWS, Asked, Child, Taken, Turns, race

from cai.models.local.width import AtOnce
from cai.models.local.workbench import Workbench
from cai.records import Message
from cai.train.batches import epoch_order
from cai.train.config import PolicyConfig
from cai.train.policy import train_policy
from cai.train.rollout import PromptRow, Rollout

NAME = "grpo"
SAMPLES = 8
ANSWERS = ROWS * SAMPLES
TEXT = (41, 281)
"""Characters of a prompt, each of which is a token; the template adds 19."""
LONGEST, STOPS = 128, 560
"""The most tokens of an answer, and how many ids end it: 48 tokens on average where all ids are about as likely."""
BETA = 0.04
SPEED, MEMORY = 3.0, 1.0
"""The bars."""
AT_ONCE = AtOnce(rows=16)
"""Answers that ours samples at once where memory counts."""
LOSS, NORM = 1e-4, 1e-3
"""How far TRL's losses on our answers may lie from ours, and its gradient norms as a share."""
SETTINGS: dict[str, dict[str, Any]] = {
    f"{n} × {ANSWERS // n}{'' if at_once == ANSWERS else f', sampled by {at_once}'}": {
        "per_pass": n,
        "sampled": at_once,
    }
    for at_once, sizes in ((ANSWERS, (16, 8, 4, 2)), (SAMPLES, (8, 4, 2, 1)))
    for n in sizes
}
Answers = dict[str, tuple[list[int], list[list[int]]]]
"""The prompt's ids and its answers', by the prompt's text."""


def texts(rounds: int) -> list[str]:
    """Random letters, in the order in which our trainer takes them."""
    import torch

    generator = torch.Generator().manual_seed(training.SEED)

    def text() -> str:
        length = int(torch.randint(TEXT[0], TEXT[1] + 1, (1,), generator=generator))
        return "".join(chr(i) for i in torch.randint(ord("a"), ord("z") + 1, (length,), generator=generator).tolist())

    drawn = [text() for _ in range(rounds * ROWS)]
    return [drawn[i] for i in epoch_order(drawn, PolicyConfig(method="grpo").seed, 0)]


def worth(ids: Sequence[int]) -> float:
    """An answer's reward."""
    return sum(token < 16_000 for token in ids) / len(ids)


def answers_file(asked: Asked, number: int) -> Path:
    return Path(asked.folder) / f"answers-{number}.json"


def start(asked: Asked, _: Turns) -> None:
    """What ends an answer, and the adapter that every side begins with: ours, drawn from its seed."""
    import torch

    stops = torch.randperm(32_000 - 300, generator=torch.Generator().manual_seed(3))[:STOPS] + 300
    ends = {"eos_token_id": sorted(stops.tolist()), "pad_token_id": 0}
    (Path(asked.model) / "generation_config.json").write_text(json.dumps(ends))
    training.opened(asked).trainee(None, training.SEED).save(asked.adapter)


def ours(asked: Asked, turns: Turns) -> None:
    turns.watch()
    workbench = training.opened(asked)
    workbench.limits.set(AT_ONCE if asked.micro_tokens == SMALL else None)
    rounds = 0

    def reward(rollouts: Sequence[Rollout]) -> list[float]:
        nonlocal rounds
        turns.add(rollout=turns.so_far())
        rewards = [worth(rollout.tokens.completion_ids) for rollout in rollouts]
        rows = [rollout.tokens for rollout in rollouts]
        sampled = sum(len(row.completion_ids) for row in rows)
        turns.add(sampled=sampled, tokens=sampled + sum(len(row.prompt_ids) for row in rows))
        turns.add(reward=statistics.fmean(rewards))
        keep(answers_file(asked, rounds), rollouts)
        rounds += 1
        return rewards

    trainee = workbench.trainee(None, training.SEED)
    with tempfile.TemporaryDirectory() as folder:
        rows = prompt_rows(workbench, asked.batches)
        for step in train_policy(our_config(asked), rows, trainee, reward, Path(folder), turns.between):
            if step.metrics:
                turns.add(grad_norm=step.metrics["grad_norm"])
                turns.end(step.metrics["loss"])


def our_config(asked: Asked) -> PolicyConfig:
    return PolicyConfig(
        **training.our_config(asked),
        method="grpo",
        samples=SAMPLES,
        max_new_tokens=LONGEST,
        aggregate="constant",
        kl=BETA,
        unfinished="keep",
        epsilon=1e-8,
    )


def prompt_rows(workbench: Workbench, rounds: int) -> list[PromptRow]:
    asked = [(text, (Message("user", text),)) for text in texts(rounds)]
    return [PromptRow(text, messages, workbench.encode_prompt(messages)) for text, messages in asked]


def keep(path: Path, rollouts: Sequence[Rollout]) -> None:
    """For the side that is given our answers."""
    found: Answers = {}
    for each in rollouts:
        _, answers = found.setdefault(each.prompt.id, (list(each.tokens.prompt_ids), []))
        answers.append(list(each.tokens.completion_ids))
    path.write_text(json.dumps(found))


def trl(asked: Asked, turns: Turns) -> None:
    turns.watch()
    train(asked, turns)


def given(asked: Asked, turns: Turns) -> None:
    """TRL without its sampling: the answers are ours."""
    turns.watch()

    def rollout(prompts: Sequence[Sequence[Mapping[str, str]]], trainer: Any) -> dict[str, object]:
        known: Answers = json.loads(answers_file(asked, trainer.state.global_step).read_text())
        asks = [prompt[0]["content"] for prompt in prompts]
        answers = [known[text][1][asks[:i].count(text)] for i, text in enumerate(asks)]
        return {"prompt_ids": [known[text][0] for text in asks], "completion_ids": answers, "logprobs": None}

    train(asked, turns, rollout_func=rollout)


def train(asked: Asked, turns: Turns, **more: object) -> None:
    from trl import GRPOConfig, GRPOTrainer

    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts(asked.batches)]
    shape = {
        "gradient_accumulation_steps": ANSWERS // asked.per_pass,
        "steps_per_generation": asked.sampled // asked.per_pass,
    }
    shared = {key: value for key, value in training.trl_config(asked).items() if key != "max_length"}
    settings = GRPOConfig(
        **{**shared, **shape},
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        temperature=1.0,
        shuffle_dataset=False,
        loss_type="dr_grpo",
        beta=BETA,
    )

    def reward(completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
        found = [worth(ids) for ids in completion_ids]
        turns.add(reward=sum(found) / ANSWERS, sampled=sum(map(len, completion_ids)))
        return found

    def generate(self: Any, prompts: Sequence[object]) -> object:
        before = turns.so_far()
        found = GRPOTrainer._generate(self, prompts)  # noqa: SLF001 (where its rollout is)
        turns.add(rollout=turns.so_far() - before, tokens=sum(map(len, [*found[0], *found[1]])))
        return found

    def log(self: Any, logs: dict[str, float], *also: object) -> None:
        if "grad_norm" in logs:
            turns.add(grad_norm=logs["grad_norm"])
        GRPOTrainer.log(self, logs, *also)

    timed = type("Timed", (GRPOTrainer,), {"_generate": generate, "log": log})
    made = {"model": training.plain_model(asked), "peft_config": training.lora_config()}
    training.run_trl(timed, asked, turns, rows, args=settings, reward_funcs=reward, **made, **more)


WAYS = {"start": start, "ours": ours, "TRL": trl, "given": given}


def run(options: argparse.Namespace) -> None:
    """Choose TRL's settings, race, and report."""
    with tempfile.TemporaryDirectory(prefix="cai-training-") as folder:
        model_folder("13M", Path(folder))
        rounds = options.rounds + 1
        begin = Asked("start", folder, rounds)
        Child(__file__, begin).close()
        trials = {} if options.choose else training.kept_trials(NAME)
        if not trials:
            trials = tried(replace(begin, way="TRL", batches=1))
        if options.choose:
            return
        chosen = Chosen.among(trials)
        best = SETTINGS[chosen.fastest]
        # The short race first: what breaks does so before TRL has taken its time.
        small = replace(begin, way="ours", micro_tokens=SMALL)
        found = race(__file__, {"ours, small passes": (small, 1)}, rounds)
        found |= race(
            __file__,
            {
                "ours": (replace(begin, way="ours"), 1),
                "TRL": (replace(begin, way="TRL", **best), 1),
                "TRL, our answers": (replace(begin, way="given", **best), 1),
            },
            rounds,
        )
    conclude(found, trials, chosen)


def tried(asked: Asked) -> Trials:
    """One round of TRL in each of its settings."""
    trials: Trials = {}
    for name, setting in SETTINGS.items():
        side = f"TRL at {name}"
        found = race(__file__, {side: (replace(asked, **setting), 1)}, 1)[side]
        trials[name] = {"seconds": round(found.seconds[0], 2), "peak_mb": round(found.peak / 1e6)}
        print(f"  {side}: {trials[name]}", flush=True)
    training.keep_trials(NAME, trials)
    return trials


def conclude(found: Mapping[str, Taken], trials: Trials, chosen: Chosen) -> None:
    """TRL must find our losses and gradients on our answers, then rates are compared."""
    ours, trl, told, small = (found[name] for name in ("ours", "TRL", "TRL, our answers", "ours, small passes"))
    gap, norms = training.gap(ours, told), norm_gap(ours, told)
    assert told.more["tokens"] == ours.more["tokens"], (told.more["tokens"], ours.more["tokens"])
    assert gap <= LOSS, (gap, ours.losses, told.losses)
    assert norms <= NORM, (norms, ours.more["grad_norm"], told.more["grad_norm"])
    theirs = trials[chosen.leanest]["peak_mb"] * 1e6
    results = [
        compared(f"tokens/s against TRL at {chosen.fastest}", rate(ours), rate(trl), SPEED),
        compared(f"rounds in a GB against TRL at {chosen.leanest}", 1e9 / small.peak, 1e9 / theirs, MEMORY),
    ]
    facts = {
        "loss_gap": gap,
        "grad_norm_gap": norms,
        "ratio_of": {
            "rollout": round(statistics.median(rollout_rates(ours)) / statistics.median(rollout_rates(trl)), 2),
            "update": round(apart(told) / apart(ours), 2),
        },
        "losses": {name: side.losses for name, side in found.items()},
        "seconds": {name: side.seconds for name, side in found.items()},
        **{key: {name: side.more[key] for name, side in found.items()} for key in trl.more},
        "peak_mb": {name: round(side.peak / 1e6) for name, side in found.items()},
        "trl_settings": trials,
        "trl": version("trl"),
    }
    print(json.dumps(facts, indent=1))
    report(NAME, results, facts)


def rate(side: Taken) -> float:
    """Tokens per second, the median over the rounds that count."""
    return statistics.median(n / s for n, s in zip(side.more["tokens"][1:], side.seconds[1:], strict=True))


def rollout_rates(side: Taken) -> list[float]:
    """Tokens drawn per second of sampling."""
    return [n / s for n, s in zip(side.more["sampled"][1:], side.more["rollout"][1:], strict=True)]


def apart(side: Taken) -> float:
    """The median seconds of what comes after sampling."""
    return statistics.median(s - r for s, r in zip(side.seconds[1:], side.more["rollout"][1:], strict=True))


def norm_gap(one: Taken, other: Taken) -> float:
    both = zip(one.more["grad_norm"], other.more["grad_norm"], strict=True)
    return max(abs(a - b) / a for a, b in both)


def main() -> None:
    run(training.options(__doc__, WAYS))


if __name__ == "__main__":
    main()
