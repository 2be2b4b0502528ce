"""What the parts of the GPU bench share: the model's shape and its random weights, the sizes of the work, what the
device can do at most, and results with bars.

The weights are drawn and written once into a folder that goes away with the bench, so that loading is what it always
is.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from measure import Result
from memory import status, write_tokenizer
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.models.local.view import Bench, LocalModel
from cai.models.local.workbench import Workbench, open_workbench
from cai.records import Message

Ids = tuple[int, ...]
GIB = 1 << 30
LORA = LoraSpec(rank=16)
FIRST_ID = 300
"""Random ids are none of the tokenizer's own marks."""


@dataclass(frozen=True)
class Size:
    """A model's shape, and how much of everything is done with it."""

    config: dict[str, object]
    repeats: int
    widths: tuple[int, ...]
    prompt: int
    new: int
    pairs: int
    """Pairs that are judged."""
    sequences: tuple[int, ...]
    """Tokens of a prompt with its answer in training."""
    batch: int
    """Pairs of an update."""
    updates: int
    rounds: int
    """Rounds of PPO."""
    rows: int
    """Prompts of the sequences of stages."""
    turn: tuple[int, int]
    """Tokens of a prompt and of an answer there, and in PPO."""
    copied: int
    """Bytes of the copy that says how fast memory is."""
    side: int
    """Of the square matrices that say how fast products are."""


SIZES = {
    "8b": Size(
        config={
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "max_position_embeddings": 8192,
        },
        repeats=3,
        widths=(1, 8, 32, 64),
        prompt=128,
        new=128,
        pairs=64,
        sequences=(1024, 2048),
        batch=4,
        updates=8,
        rounds=3,
        rows=32,
        turn=(512, 512),
        copied=2 * GIB,
        side=8192,
    ),
    "tiny": Size(
        config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "max_position_embeddings": 512,
        },
        repeats=1,
        widths=(1, 3),
        prompt=12,
        new=6,
        pairs=2,
        sequences=(32,),
        batch=2,
        updates=1,
        rounds=1,
        rows=2,
        turn=(24, 8),
        copied=1 << 20,
        side=64,
    ),
}


@dataclass(frozen=True)
class Asked:
    """What one part is to run on."""

    size: str
    device: str
    work: str

    @property
    def of(self) -> Size:
        return SIZES[self.size]

    @property
    def folder(self) -> Path:
        return Path(self.work) / f"llama-{self.size}"

    @property
    def judged(self) -> bool:
        """Whether bars mean anything here."""
        return self.device != "cpu" and self.size == "8b"


@dataclass
class Found:
    """What a part found out."""

    judged: bool
    results: list[dict[str, object]] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def faster(self, name: str, ours: float, peer: float, goal: float | None, floor: float | None = None) -> None:
        """Rates: more is better."""
        ratio = ours / peer
        bar = goal if goal is not None else 0.0
        share = None if floor is None else round(ours / floor, 3)
        told = asdict(Result(name, round(ours, 3), round(peer, 3), round(ratio, 3), bar, ratio >= bar, share))
        unjudged = {} if self.judged and goal is not None else {"met": None}
        self.results.append({**told, "goal": goal, **unjudged})

    def smaller(self, name: str, ours: float, most: float) -> None:
        """GiB that are held: less is better, so that the ratio is what is allowed over what is held."""
        self.faster(f"{name} (GiB, at most {most:.3g})", 1 / max(ours, 1e-6), 1 / most, 1.0)
        self.results[-1] |= {"ours": round(ours, 3), "peer": round(most, 3)}


def write_model(asked: Asked, _: "Found") -> None:
    """Random weights in 16 bits, a file for each layer: no more than one layer is ever held."""
    folder = asked.folder
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(str(folder))
    config = LlamaConfig(**asked.of.config, tie_word_embeddings=False, pad_token_id=0, bos_token_id=None)
    config.eos_token_id = None
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(name.split(".")[2] if ".layers." in name else name, []).append(name)
    generator = torch.Generator(asked.device).manual_seed(7)
    index: dict[str, str] = {}
    for number, names in enumerate(groups.values(), 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file({n: _drawn(shapes[n], generator) for n in names}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)


def _drawn(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    return (drawn.fill_(1.0) if len(shape) == 1 else drawn.normal_(0.0, 0.02, generator=generator)).cpu()


def open_model(asked: Asked) -> Workbench:
    bench = open_workbench(ModelSpec(str(asked.folder), quantization="nf4", lora=LORA, device=asked.device))
    if asked.device == "cpu":
        # Nothing records there, but steps take the same way if their work is done again.
        inside(bench).steps._record = _again  # noqa: SLF001
    return bench


def _again(work: Callable[[], None]) -> Callable[[], None]:
    return work


def write_adapter(asked: Asked, bench: Workbench, name: str = "adapter") -> Path:
    """An adapter that changes what the model says, as a trained one does."""
    folder = Path(asked.work) / f"{name}-{asked.size}"
    if not folder.exists():
        trainee = bench.trainee(None, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for key, parameter in trainee.parameters().items():
                if ".lora_B." in key:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.01, generator=generator))
        trainee.save(folder)
        bench.release(trainee)
    return folder


def inside(bench: Workbench) -> Bench:
    """What all views share: the bench turns on and off what decides itself for everybody else."""
    return bench._bench  # noqa: SLF001


@contextmanager
def at_work(view: LocalModel) -> Iterator[None]:
    """The network speaks as this view, for calls below it that take tokens and not texts."""
    with view._at_work(), torch.inference_mode():  # noqa: SLF001
        yield


def texts(asked: Asked, count: int, length: int, seed: int) -> list[Ids]:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(str(asked.of.config["vocab_size"]))
    return [tuple(row) for row in torch.randint(FIRST_ID, vocabulary, (count, length), generator=generator).tolist()]


def messages(bench: Workbench, length: int, seed: int) -> tuple[Message, ...]:
    """A request that becomes so many tokens: each letter is one."""
    frame = len(bench.encode_prompt([Message("user", "")]))
    assert length > frame, f"a prompt of {length} tokens, of which the template takes {frame}"
    letters = torch.randint(97, 123, (length - frame,), generator=torch.Generator().manual_seed(seed)).tolist()
    return (Message("user", "".join(map(chr, letters))),)


def shape(asked: Asked) -> Shape:
    return shape_of(asked.folder)


def copy_bandwidth(asked: Asked) -> float:
    """Bytes read and written each second by a large copy."""
    source = torch.zeros(asked.of.copied, dtype=torch.uint8, device=asked.device)
    target = torch.empty_like(source)
    return 2 * asked.of.copied / seconds(asked, lambda: target.copy_(source))


def product_rate(asked: Asked) -> float:
    """FLOPs each second of a large product in 16 bits."""
    side = asked.of.side
    left, right = (torch.rand(side, side, device=asked.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(asked, lambda: left @ right)


def seconds(asked: Asked, work: Callable[[], object], repeats: int = 10) -> float:
    """The median, waiting for the device each time."""
    work()
    taken = []
    for _ in range(repeats):
        wait(asked)
        start = time.perf_counter()
        work()
        wait(asked)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def wait(asked: Asked) -> None:
    if asked.device != "cpu":
        torch.cuda.synchronize()


def let_go() -> None:
    """Give back what nobody holds any more; call it after the last name is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def limit(asked: Asked, gib: float) -> None:
    """From here on torch raises rather than take more than this of the device."""
    if asked.device != "cpu":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))


def watch(asked: Asked) -> None:
    """From here on the peak counts."""
    let_go()
    if asked.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(asked: Asked, *, reserved: bool = False) -> float:
    """GiB at most since `watch`: what torch gave out, or what it reserved for that. On a CPU what is resident."""
    if asked.device == "cpu":
        return status("VmHWM") / GIB
    return (torch.cuda.max_memory_reserved() if reserved else torch.cuda.max_memory_allocated()) / GIB
