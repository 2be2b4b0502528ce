"""`cai doctor`: what this machine has, whether the embedded model loads on it, and what else should fit.

What fits is estimated for 4-bit weights and LoRA. Nothing is downloaded and nothing is written.
"""

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.screen import MARKS, console, print_json
from cai.errors import CaiError
from cai.models.local.compiled import compiler
from cai.models.local.machine import free_memory

if TYPE_CHECKING:
    from cai.models.local.machine import Gpu, Machine

GIB = 1024**3
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_KNOWN = {
    0.5: (24, 896, 14, 2, 64, 4864, 151_936),
    1: (16, 2048, 32, 8, 64, 8192, 128_256),
    1.5: (28, 1536, 12, 2, 128, 8960, 151_936),
    3: (28, 3072, 24, 8, 128, 8192, 128_256),
    4: (36, 2560, 32, 8, 128, 9728, 151_936),
    8: (32, 4096, 32, 8, 128, 14_336, 128_256),
    14: (48, 5120, 40, 8, 128, 13_824, 152_064),
    32: (64, 5120, 40, 8, 128, 27_648, 152_064),
    70: (80, 8192, 64, 8, 128, 28_672, 128_256),
}
"""Billions of parameters as models are commonly sold, and the sizes of one such model: layers, width, heads, key heads,
head width, inner width, vocabulary."""
_LARGEST_ON_CPU = 1.5
"""Beyond this a run on a CPU takes weeks, whatever the memory."""
_DOWNLOAD = 2.2
"""GiB of disk for each billion of parameters, to download a model in 16 bits."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Say what this machine can run. Exits with 1 where something needed is missing."""
    checks = [look() for look in CHECKS]
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        _show(checks)
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(1)


def _show(checks: Sequence[Check]) -> None:
    from rich.text import Text

    screen = console()
    for check in checks:
        sign, colour = MARKS[check.state]
        screen.print(Text.assemble((f"{sign} ", colour), (f"{check.name:<15}", "bold"), f" {check.found}"))
        if check.advice:
            screen.print(Text(f"{'':<18}{check.advice}", style="dim"))


def python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def torch_library() -> Check:
    machine = _machine()
    if machine is None:
        return Check("torch", "missing", "cannot be loaded", "install cai again; its dependencies are incomplete")
    return Check("torch", "ok", f"{machine.torch}, {machine.threads} threads")


def gpu() -> Check:
    found = _gpu()
    if found is None:
        return Check("GPU", "warning", "none that torch can use", "small models run on the CPU; 1B and up want a GPU")
    room = f"{found.free_gib:.1f} of {found.total_gib:.1f} GiB free"
    return Check("GPU", "ok", f"{found.name}, {room}, CUDA {found.cuda}")


def processor() -> Check:
    flags = [flag for flag in _CPU_FLAGS if flag in _cpu_flags()]
    found = f"{_usable_cores()} cores, {', '.join(flags) or 'no vector extensions known'}"
    return Check("CPU", "ok", found)


def c_compiler() -> Check:
    found = compiler()
    if found is None and _gpu() is None:
        return Check(
            "C compiler",
            "warning",
            "none",
            "with one, such as gcc, fine-tuning more than the embedded model is faster on a CPU",
        )
    return Check("C compiler", "ok", " ".join(found) if found else "none, which a GPU does not want")


def memory() -> Check:
    free = free_memory() / GIB
    if free < 3:
        return Check("memory", "warning", f"{free:.1f} GiB free", "the quickstart wants 3 GiB; close something")
    return Check("memory", "ok", f"{free:.1f} GiB free")


def disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    if free < 1:
        return Check("disk", "warning", f"{free:.1f} GiB free here", "a run of the quickstart needs about 100 MiB")
    return Check("disk", "ok", f"{free:.1f} GiB free here")


def four_bit() -> Check:
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        return Check("bitsandbytes", "missing", "not installed", "install cai again; nf4 and int8 need it")
    return Check("bitsandbytes", "ok", found)


def embedded_model() -> Check:
    """Loads it as a run would, 4-bit, and lets it answer."""
    from cai.models.tiny.weights import FOLDER

    if not (FOLDER / "config.json").exists():
        return Check("embedded model", "missing", "its weights are not here", "install cai again, or run `make tiny`")
    try:
        return Check("embedded model", "ok", _answer_of_embedded())
    except CaiError as error:
        return Check("embedded model", "missing", str(error), "install cai again, or run `make tiny`")


def fits() -> Check:
    found = _gpu()
    free = found.free_gib * GIB if found else free_memory()
    able = [
        size for size in _KNOWN if (found or size <= _LARGEST_ON_CPU) and _training_bytes(size, bool(found)) <= free
    ]
    where = "the GPU" if found else "the CPU, with patience"
    if not able:
        least = _training_bytes(min(_KNOWN), bool(found)) / GIB
        return Check(
            "fits", "warning", f"only the embedded model on {where}", f"4-bit training of 0.5B wants {least:.0f} GiB"
        )
    advice = f"by estimate, see `cai plan`; its download takes about {able[-1] * _DOWNLOAD:.0f} GiB of disk"
    return Check("fits", "ok", f"4-bit training of up to {able[-1]:g}B parameters on {where}", advice)


def _training_bytes(size: float, on_gpu: bool) -> int:
    """DPO from an adapter on one pair of 1,024 tokens at a time, with layers computed again."""
    from cai.models.local.memory import Setup, Training, need
    from cai.models.local.shape import shape_from_config

    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    config: dict[str, object] = dict(zip((*names, "intermediate_size", "vocab_size"), _KNOWN[size], strict=True))
    config["tie_word_embeddings"] = size < 8
    setup = Setup(shape_from_config(config), "nf4", "cuda" if on_gpu else "cpu")
    return need(setup, Training("dpo", 2, 1024, 1024, continued=True, checkpointing=True)).bytes


CHECKS: tuple[Callable[[], Check], ...] = (
    python,
    torch_library,
    gpu,
    processor,
    c_compiler,
    memory,
    disk,
    four_bit,
    embedded_model,
    fits,
)


def _answer_of_embedded() -> str:
    from cai.models.local.spec import ModelSpec
    from cai.models.local.workbench import open_workbench
    from cai.models.protocol import Request, Sampling
    from cai.models.tiny.world import prompts

    prompt = prompts("test", per_class=1)[0]
    view = open_workbench(ModelSpec("tiny")).view()
    reply = view.generate([Request(prompt.messages, Sampling(temperature=0.0, max_new_tokens=64))])[0]
    return f"loads in 4 bits and answers: {reply.text.strip()}"


@cache
def _machine() -> "Machine | None":
    from cai.models.local.machine import look_at_machine

    try:
        return look_at_machine()
    except ImportError:
        return None


def _gpu() -> "Gpu | None":
    machine = _machine()
    return machine.gpu if machine else None


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_flags() -> set[str]:
    names = ("flags", "Features")
    return next((set(line.split()) for line in _lines(Path("/proc/cpuinfo")) if line.startswith(names)), set())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
