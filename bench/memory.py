"""The memory estimate against measured peaks, each phase in a fresh process: on a GPU where there is one, else the CPU.

    python bench/memory.py [--only NAME ...] [--device cpu|cuda] [--work DIR]

Models are the embedded one and random Llamas of 13 M and 100 M parameters. A process warms up on a small piece of the
same work, so that libraries are there, notes what it has, and then does the work: on a CPU the peak is that of its
resident memory (VmHWM), with memory handed back as where it is scarce; on a GPU that of torch's allocator. What is
compared is what came on top. The last line is JSON for programs; the table also goes to bench/results/memory.json
and docs/memory.md, where `--only` replaces the named lines.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cai.models.local.fitting import setup_for
from cai.models.local.heap import hand_back_large_blocks
from cai.models.local.machine import total_memory
from cai.models.local.memory import KEPT_BYTES, PASS_TOKENS, Generating, Judging, Method, Training, Work, need, peak
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import LoraSpec, ModelSpec, Precision, Quantization

if TYPE_CHECKING:
    from cai.models.local.logprobs import TokenRow
    from cai.models.local.workbench import Workbench

RESULTS = Path(__file__).resolve().parent / "results" / "memory.json"
GUIDE = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
START, END = "<!-- figures: bench/memory.py -->\n", "<!-- end of figures -->"
BAR = 0.15
LORA = LoraSpec(rank=16)
SAMPLES = 4
"""Answers to each prompt of a policy."""
SIZES: dict[str, dict[str, int]] = {
    "13M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8},
    "100M": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
}


@dataclass(frozen=True)
class Job:
    """One phase of one model. `prompt` and `reply` are tokens of a row; a pair counts as two rows. A policy's rows are
    the answers of a round, `SAMPLES` to each prompt."""

    model: str
    quantization: Quantization
    phase: Literal["load", "generate", "judge", "sft", "dpo", "reward", "grpo", "ppo"]
    rows: int = 0
    prompt: int = 0
    reply: int = 0
    precision: Precision = "auto"

    @property
    def name(self) -> str:
        size = f" {self.rows}×{self.prompt + self.reply}" if self.rows else ""
        precision = "" if self.precision == "auto" else f" in {self.precision}"
        return f"{self.model} {self.quantization}{precision} {self.phase}{size}"


JOBS = (
    Job("tiny", "none", "generate", 64, 32, 480),
    Job("tiny", "none", "dpo", 16, 64, 192),
    Job("tiny", "nf4", "dpo", 16, 64, 192),
    Job("13M", "none", "generate", 64, 32, 480),
    Job("13M", "nf4", "generate", 64, 32, 480),
    Job("13M", "none", "judge", 64, 256, 0),
    Job("13M", "none", "sft", 8, 128, 128),
    Job("13M", "none", "reward", 8, 64, 192),
    Job("13M", "none", "dpo", 8, 64, 192),
    Job("13M", "none", "dpo", 16, 64, 192),
    Job("13M", "none", "dpo", 16, 64, 192, "bf16"),
    Job("13M", "nf4", "dpo", 8, 64, 192),
    Job("13M", "none", "grpo", 16, 64, 128),
    Job("13M", "none", "ppo", 16, 64, 128),
    Job("13M", "nf4", "ppo", 16, 64, 128),
    Job("100M", "none", "load"),
    Job("100M", "nf4", "load"),
    Job("100M", "none", "generate", 16, 32, 480),
    Job("100M", "none", "judge", 16, 256, 0),
    Job("100M", "none", "sft", 4, 128, 128),
    Job("100M", "none", "dpo", 4, 64, 192),
    Job("100M", "none", "dpo", 16, 64, 64),
    Job("100M", "nf4", "dpo", 4, 64, 192),
)


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        print(json.dumps(measured_here(Job(**json.loads(sys.argv[2])), sys.argv[3], sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="beginnings of the names to measure")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=None)
    parser.add_argument("--work", type=Path, default=None, help="where the random models are made, and kept")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="cai-memory-"))
    device = asked.device or _device()
    jobs = [job for job in JOBS if not asked.only or job.name.startswith(tuple(asked.only))]
    results = [compared(job, work, device) for job in jobs]
    told = _kept(results)
    for each in told:
        mark = "met" if each["met"] else "missed"
        print(f"{each['name']:34} {each['ours']:8.1f} MB  {each['peer']:8.1f} MB  {each['ratio']:5.2f}  {mark}")
    print(json.dumps({"bench": "memory", "results": told}))


def compared(job: Job, work: Path, device: str) -> dict[str, object]:
    """The estimate (`ours`) and the measured peak (`peer`), in MB on top of what the process began with."""
    folder = model_folder(job.model, work)
    found = measured(job, folder, device)
    guess = estimated(job, shape_of(_files(folder)), device, dense=bool(found["dense"]))
    ratio = guess / found["peak"]
    print(f"  {job.name}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return {
        "name": job.name if device == "cpu" else f"{job.name} on {device}",
        "ours": round(guess / 1e6, 1),
        "peer": round(found["peak"] / 1e6, 1),
        "ratio": round(ratio, 3),
        "goal": BAR,
        "met": abs(ratio - 1) <= BAR,
        "floor_share": None,
    }


def estimated(job: Job, shape: Shape, device: str, *, dense: bool) -> int:
    """What the estimator says of a job, without what is there before anything is loaded."""
    kind: Literal["cpu", "cuda"] = "cpu" if device == "cpu" else "cuda"
    setup = setup_for(spec_of(job, ""), shape, kind, total_memory())
    setup = replace(setup, dense_copies=dense)
    found = peak([need(setup, work) for work in works_of(job)])
    return found.bytes - found.of("before loading")


def works_of(job: Job) -> tuple[Work | None, ...]:
    """What a job is, as the estimator is asked."""
    length, scored = job.prompt + job.reply, job.rows * job.reply
    match job.phase:
        case "load":
            return (None,)
        case "generate":
            return (Generating(job.rows, job.prompt, job.reply, total=job.rows),)
        case "judge":
            return (Judging(min(job.rows, PASS_TOKENS // max(1, length)), length),)
        case "sft" | "dpo":
            return (Training(job.phase, job.rows, length, scored),)
        case "reward":
            return (Training("reward", job.rows, length, 0),)
        case "grpo" | "ppo":
            method: Method = "ppo" if job.phase == "ppo" else "policy"
            training = Training(method, job.rows, length, scored, shared=job.prompt, family=SAMPLES)
            return Generating(job.rows, job.prompt, job.reply, total=job.rows, within=training), training


def spec_of(job: Job, folder: str, device: str = "auto") -> ModelSpec:
    return ModelSpec(folder, quantization=job.quantization, lora=LORA, device=device, precision=job.precision)


def measured(job: Job, folder: str, device: str) -> dict[str, float]:
    """The peak of a job in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(asdict(job)), folder, device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{job.name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured_here(job: Job, folder: str, device: str) -> dict[str, float]:
    import time

    import torch

    if device == "cpu":
        hand_back_large_blocks()
    warm = replace(job, rows=2, prompt=4, reply=4)
    _do(warm, "tiny", device)
    before = _reset(device)
    started = time.perf_counter()
    bench = _do(job, folder, device)
    most = torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")
    return {"peak": most - before, "dense": bench.dense_bytes, "seconds": time.perf_counter() - started}


def _do(job: Job, folder: str, device: str) -> "Workbench":
    import torch

    from cai.models.local.logprobs import TokenRow
    from cai.models.local.workbench import open_workbench

    bench = open_workbench(spec_of(job, folder, device), check_memory=False)
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, bench.network.vocab_size, (count,), generator=generator).tolist())

    rows = [TokenRow(ids(job.prompt), ids(max(job.reply, 1))) for _ in range(job.rows)]
    match job.phase:
        case "generate":
            _generate(bench, rows, job.reply)
        case "judge":
            _judge(bench, rows)
        case "sft" | "dpo" | "reward":
            _train(bench, rows, job.phase)
        case "grpo" | "ppo":
            _learn(bench, job)
    return bench


def _generate(bench: "Workbench", rows: "list[TokenRow]", reply: int) -> None:
    from cai.models.local.decode import DecodeRow, Memory, decode
    from cai.models.local.prefix import Kept
    from cai.models.protocol import Sampling

    sampling = Sampling(max_new_tokens=reply)
    asked = [DecodeRow(row.prompt_ids, sampling, i) for i, row in enumerate(rows)]
    decode(bench.network, asked, _never, Memory(Kept(KEPT_BYTES), "bench"))


def _never(_row: int, _ids: object) -> bool:
    return False


def _judge(bench: "Workbench", rows: "list[TokenRow]") -> None:
    import torch

    from cai.models.local.choices import choice_logps

    with torch.inference_mode():
        choice_logps(bench.network, [(row.prompt_ids, [(11,), (12,)]) for row in rows])


def _train(bench: "Workbench", rows: "list[TokenRow]", method: str) -> None:
    """Two updates in one pass each, so that the second has the optimizer's state; DPO with its reference before."""
    from cai.train.config import DpoConfig, RewardConfig, SftConfig
    from cai.train.preference import train_dpo
    from cai.train.reference import PairRow
    from cai.train.reward import train_reward
    from cai.train.sft import SftRow, train_sft

    tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    half = len(rows) // 2
    sizes: dict[str, int] = {"epochs": 2, "micro_tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        if method == "sft":
            sft = SftConfig(batch_size=len(rows), **sizes)
            own = [SftRow(str(i), row) for i, row in enumerate(rows)]
            steps = train_sft(sft, own, bench.trainee(None, 1), Path(folder), _go_on)
        else:
            pairs = [PairRow(str(i), *both) for i, both in enumerate(zip(rows[:half], rows[half:], strict=True))]
            if method == "dpo":
                dpo = DpoConfig(batch_size=half, **sizes)
                steps = train_dpo(dpo, pairs, bench.trainee(None, 1), Path(folder), _go_on)
            else:
                reward = RewardConfig(batch_size=half, holdout=0, **sizes)
                steps = train_reward(reward, pairs, bench.scoring_trainee(None, 1), Path(folder), _go_on)
        for _ in steps:
            pass


def _learn(bench: "Workbench", job: Job) -> None:
    """Two rounds of one update in one pass, of prompts that are as long as the job says in tokens of one byte each."""
    from cai.records import Message
    from cai.train.actor_critic import ActorCritic
    from cai.train.config import PolicyConfig
    from cai.train.policy import train_policy
    from cai.train.rollout import PromptRow

    count = max(1, job.rows // SAMPLES)
    around = len(bench.encode_prompt((Message("user", ""),)))
    texts = [f"{i:04d}".ljust(max(4, job.prompt - around), "x") for i in range(count)]
    messages = [(Message("user", text),) for text in texts]
    prompts = [PromptRow(str(i), each, bench.encode_prompt(each)) for i, each in enumerate(messages)]
    tokens = sum(len(prompt.prompt_ids) for prompt in prompts) + count * SAMPLES * job.reply
    config = PolicyConfig(
        method=job.phase, samples=SAMPLES, batch_size=count, epochs=2, micro_tokens=tokens, max_new_tokens=job.reply
    )
    policy = bench.trainee(None, 1)
    actor = ActorCritic(policy, bench.scoring_trainee(None, 2, "zero")) if job.phase == "ppo" else policy
    with tempfile.TemporaryDirectory() as folder:
        for _ in train_policy(config, prompts, actor, lambda rollouts: range(len(rollouts)), Path(folder), _go_on):
            pass


def _go_on() -> bool:
    return False


def _reset(device: str) -> int:
    """Begin to look for a peak, and what is there already."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system's /proc/self/status has no {name}")


def model_folder(name: str, work: Path) -> str:
    """`tiny`, or a folder with a random Llama of that size, made if it is not there."""
    if name == "tiny":
        return name
    folder = work / name
    if not (folder / "config.json").exists():
        command = [sys.executable, "-c", f"from bench.memory import make_model; make_model({name!r}, {str(folder)!r})"]
        subprocess.run(command, check=True, cwd=Path(__file__).resolve().parent.parent, timeout=600)
    return str(folder)


def make_model(name: str, folder: str) -> None:
    """A random Llama with a vocabulary of 32,000, and a tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder)
    torch.manual_seed(7)
    also = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": True, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**SIZES[name], **also)).save_pretrained(folder)


def write_tokenizer(folder: str) -> None:
    """A tokenizer of bytes, with the marks of turns and a template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<|pad|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    fast.save_pretrained(folder)


def _files(folder: str) -> Path:
    from cai.models.tiny.weights import FOLDER

    return FOLDER if folder == "tiny" else Path(folder)


def _device() -> str:
    asked = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    return subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def _kept(results: list[dict[str, object]]) -> list[dict[str, object]]:
    """These results among those that were measured before, in the order of the jobs; kept, and shown in the guide."""
    before = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    named = {str(each["name"]): each for each in [*before, *results]}
    order = {job.name: i for i, job in enumerate(JOBS)}
    known = [name for name in named if name.partition(" on ")[0] in order]
    told = [named[name] for name in sorted(known, key=lambda name: order[name.partition(" on ")[0]])]
    RESULTS.parent.mkdir(exist_ok=True)
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    machine = {"processor": platform.machine(), "libc": " ".join(platform.libc_ver())}
    facts = {**machine, "python": platform.python_version(), **{name: version(name) for name in packages}}
    RESULTS.write_text(json.dumps({"bench": "memory", "results": told, "machine": facts}, indent=1) + "\n")
    lines = ["| phase (rows × tokens) | worked out | measured | ratio |", "|---|---|---|---|"]
    lines += [f"| {e['name']} | {e['ours']:,.0f} MB | {e['peer']:,.0f} MB | {e['ratio']:.2f} |" for e in told]
    before, after = GUIDE.read_text("utf-8").split(START)
    GUIDE.write_text(before + START + "\n".join([*lines, END]) + after.partition(END)[2], "utf-8")
    return told


if __name__ == "__main__":
    main()
