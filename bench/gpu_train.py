"""Parts of the GPU bench that train: DPO against a plain loop, how much of the arithmetic is used, PPO and all stages
of a run under a limit."""

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_decode import LIMIT, plain_model, revise_and_judge
from gpu_model import (
    LORA,
    Asked,
    Found,
    inside,
    let_go,
    limit,
    messages,
    open_model,
    peak,
    product_rate,
    shape,
    texts,
    wait,
    watch,
    write_adapter,
)
from torch.nn import functional

from cai.models.local.layout import TokenRow
from cai.models.local.machine import free_memory
from cai.models.local.memory import Device, Setup, Training, adapter_parameters, need
from cai.models.local.workbench import Workbench
from cai.train.actor_critic import ActorCritic
from cai.train.config import DpoConfig, PolicyConfig, SftConfig
from cai.train.policy import train_policy
from cai.train.preference import train_dpo
from cai.train.reference import PairRow
from cai.train.rewards import from_scorer
from cai.train.rollout import PromptRow
from cai.train.sft import SftRow, train_sft

BETA = 0.1
RATE = 1e-5
SPEED_GOAL, MEMORY_GOAL, USE_GOAL = 1.5, 0.7, 0.4
PPO_LIMIT = 21.0


def dpo(asked: Asked, found: Found) -> None:
    """Both keep each layer's input only and take one pair at a time, as TRL does unless told otherwise."""
    for length in asked.of.sequences:
        rows = pair_rows(asked, length, asked.of.updates * asked.of.batch)
        ours = our_dpo(asked, rows, length)
        let_go()
        theirs = plain_dpo(asked, rows)
        let_go()
        tokens = 2 * length * len(rows)
        name = f"DPO at {length}: tokens/s against a plain loop"
        found.faster(name, tokens / ours.seconds, tokens / theirs.seconds, SPEED_GOAL)
        found.smaller(f"DPO at {length}: peak against a plain loop's", ours.peak, MEMORY_GOAL * theirs.peak)
        found.facts[f"DPO at {length}"] = {"ours": asdict(ours), "peer": asdict(theirs)}


@dataclass(frozen=True)
class Took:
    seconds: float
    peak: float
    """GiB."""


def our_dpo(asked: Asked, rows: Sequence[PairRow], length: int) -> Took:
    """The reference's pass is counted."""
    bench = open_model(asked)
    config = DpoConfig(
        batch_size=asked.of.batch,
        micro_tokens=2 * length,
        checkpointing=True,
        labels="hard",
        beta=BETA,
        learning_rate=RATE,
    )
    train(train_dpo, bench, config, rows[: asked.of.batch])
    watch(asked)
    return Took(train(train_dpo, bench, config, rows), peak(asked))


def plain_dpo(asked: Asked, rows: Sequence[PairRow]) -> Took:
    """What a plain loop does: both answers of a pair as padded rows, all logits, the reference with adapters off."""
    model = plain_trainee(asked)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE)

    def sums(pair: PairRow) -> torch.Tensor:
        full = [(*row.prompt_ids, *row.completion_ids) for row in (pair.chosen, pair.rejected)]
        ids = torch.tensor(full, device=asked.device)
        start = len(pair.chosen.prompt_ids)
        with torch.autocast(torch.device(asked.device).type, torch.bfloat16, enabled=asked.device != "cpu"):
            logits = model(input_ids=ids, use_cache=False).logits[:, start - 1 : -1]
        logps = torch.stack([functional.log_softmax(each.float(), dim=-1) for each in logits])
        return logps.gather(2, ids[:, start:, None])[:, :, 0].sum(dim=1)

    def update(pairs: Sequence[PairRow]) -> None:
        for pair in pairs:
            with torch.no_grad(), model.disable_adapter():
                reference = sums(pair)
            ratios = sums(pair) - reference
            (-functional.logsigmoid(BETA * (ratios[0] - ratios[1])) / len(pairs)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    update(rows[: asked.of.batch])
    watch(asked)
    start = time.perf_counter()
    for first in range(0, len(rows), asked.of.batch):
        update(rows[first : first + asked.of.batch])
    wait(asked)
    return Took(time.perf_counter() - start, peak(asked))


def plain_trainee(asked: Asked) -> Any:
    """The 4-bit base with PEFT's LoRA, in training, each layer's input kept alone."""
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=names, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # Renamed in transformers, and not yet in peft.
        warnings.filterwarnings("ignore", message="`(is_gradient_checkpointing|gradient_checkpointing_enable)` is")
        model: Any = get_peft_model(plain_model(asked, None), lora)
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def use(asked: Asked, found: Found) -> None:
    """Fine-tuning on full sequences: what the model itself has to compute, against a large product's rate. What
    checkpointing computes again does not count as use."""
    length, count = asked.of.sequences[-1], asked.of.updates * 2 * asked.of.batch
    bench, sizes = open_model(asked), shape(asked)
    rate = product_rate(asked)
    half = length // 2
    drawn = enumerate(texts(asked, count, length, seed=4))
    rows = [SftRow(str(i), TokenRow(ids[:half], ids[half:])) for i, ids in drawn]
    device: Device = "cpu" if asked.device == "cpu" else "cuda"
    work = Training("sft", 2, length, 2 * (length - half))
    fits = need(Setup(sizes, "nf4", device, LORA), work).of("activations") < free_memory(asked.device) // 2
    config = SftConfig(
        epochs=1, batch_size=2 * asked.of.batch, micro_tokens=2 * length, checkpointing=not fits, learning_rate=RATE
    )
    train(train_sft, bench, config, rows[: 2 * asked.of.batch])
    taken = train(train_sft, bench, config, rows)
    lora = adapter_parameters(sizes, LORA)
    head = 4 * sizes.vocabulary * sizes.width * count * (length - half)
    # Of queries, keys and what they weigh, forwards once and backwards twice; half of the square is seen.
    attention = 3 * 2 * sizes.layers * sizes.heads * sizes.head_width * length**2 * count
    flops = count * length * (4 * sizes.linear + 6 * lora) + head + attention
    name = "SFT: TFLOP/s of the model against those of a large product"
    found.faster(name, flops / taken / 1e12, rate / 1e12, USE_GOAL, rate / 1e12)
    found.facts |= {"tokens/s": count * length / taken, "checkpointing": not fits}


def ppo(asked: Asked, found: Found) -> None:
    """Policy, reference, reward and value on one base, under a limit that is hard."""
    limit(asked, PPO_LIMIT)
    watch(asked)
    bench = open_model(asked)
    inside(bench).replicas.allow(0)
    taken, tokens = run_ppo(asked, bench)
    found.smaller("PPO with four roles: reserved", peak(asked, reserved=True), PPO_LIMIT)
    found.facts |= {"tokens/s": tokens / taken, "seconds": taken, "tokens": tokens, "peak allocated GiB": peak(asked)}
    found.facts["steps recorded"] = inside(bench).steps.on


def run_ppo(asked: Asked, bench: Workbench) -> tuple[float, int]:
    """Seconds, and tokens of prompts and answers, of a few rounds."""
    prompt, new = asked.of.turn
    rounds, at_once = asked.of.rounds, asked.of.rows
    scorer = bench.scoring_trainee(None, seed=3)
    reward_folder = Path(asked.work) / f"reward-{asked.size}"
    scorer.save(reward_folder)
    bench.release(scorer)
    policy, reward = bench.trainee(write_adapter(asked, bench), seed=1), bench.scorer(reward_folder)
    value = bench.scoring_trainee(None, seed=4, head="zero")
    prompts = []
    for number in range(rounds * at_once // 2):
        said = messages(bench, prompt, seed=number)
        prompts.append(PromptRow(f"prompt-{number}", said, bench.encode_prompt(said)))
    config = PolicyConfig(
        method="ppo",
        batch_size=at_once // 2,
        samples=2,
        max_new_tokens=new,
        micro_tokens=2 * (prompt + new),
        checkpointing=True,
        learning_rate=RATE,
    )
    actor, tokens = ActorCritic(policy, value), rounds * (at_once // 2) * 2 * (prompt + new)
    with tempfile.TemporaryDirectory() as folder:
        steps = train_policy(config, prompts, actor, from_scorer(reward), Path(folder), never)
        return until_the_last(steps), tokens


def stages(asked: Asked, found: Found) -> None:
    """Revise, prefer, SFT, DPO and PPO, one after the other on one base."""
    limit(asked, LIMIT)
    watch(asked)
    bench = open_model(asked)
    inside(bench).replicas.allow(0)
    length = asked.of.sequences[0]
    peaks: dict[str, float] = {}
    revise_and_judge(asked, bench, bench.view(write_adapter(asked, bench)))
    peaks["revise, prefer"] = peak(asked, reserved=True)
    pairs = pair_rows(asked, length, 2 * asked.of.batch)
    common: dict[str, Any] = {"batch_size": asked.of.batch, "micro_tokens": 2 * length, "checkpointing": True}
    rows = [SftRow(pair.id, pair.chosen) for pair in pairs]
    train(train_sft, bench, SftConfig(epochs=1, **common), rows)
    peaks["sft"] = peak(asked, reserved=True)
    train(train_dpo, bench, DpoConfig(**common), pairs)
    peaks["dpo"] = peak(asked, reserved=True)
    run_ppo(asked, bench)
    peaks["ppo"] = peak(asked, reserved=True)
    found.smaller("revise, prefer, SFT, DPO, PPO: reserved", max(peaks.values()), LIMIT)
    found.facts["GiB reserved until"] = peaks


def pair_rows(asked: Asked, length: int, count: int) -> list[PairRow]:
    """Half of each sequence is the prompt."""
    half = length // 2
    prompts = texts(asked, count, half, seed=1)
    answers = [texts(asked, count, length - half, seed=seed) for seed in (2, 3)]
    rows = enumerate(zip(prompts, *answers, strict=True))
    return [PairRow(f"pair-{i}", TokenRow(q, a), TokenRow(q, b)) for i, (q, a, b) in rows]


def train(method: Any, bench: Workbench, config: Any, rows: Sequence[object]) -> float:
    """Seconds that a fresh adapter's training takes."""
    trainee = bench.trainee(None, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        taken = until_the_last(method(config, rows, trainee, Path(folder), never))
    bench.release(trainee)
    return taken


def until_the_last(steps: Iterator[object]) -> float:
    """Seconds until the last update is done, its checkpoint included."""
    start = last = time.perf_counter()
    for _ in steps:
        last = time.perf_counter()
    return last - start


def never() -> bool:
    return False
