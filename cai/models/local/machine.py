"""What this machine has: memory, and what torch knows of it. Nothing is loaded onto a device."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cai.errors import InputError
from cai.models.local.spec import Precision

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    free_gib: float
    total_gib: float
    cuda: str


@dataclass(frozen=True, slots=True)
class Machine:
    torch: str
    threads: int
    gpu: Gpu | None


def look_at_machine() -> Machine:
    """Raises `ImportError` where torch cannot be loaded."""
    import torch

    gpu = None
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu = Gpu(torch.cuda.get_device_name(), free / GIB, total / GIB, str(torch.version.cuda))
    return Machine(str(torch.__version__), torch.get_num_threads(), gpu)


def precision_on(device: str, wanted: Precision) -> Precision:
    """What is computed in on a device of this machine: bf16 only where it is the hardware's own, if nothing is said."""
    if wanted not in get_args(Precision):
        raise InputError("precision", "there is no such precision", wanted, f"choose {', '.join(get_args(Precision))}")
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "fp32"
    import torch

    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def total_memory() -> int:
    """Bytes of this machine's own memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: str = "cpu") -> int:
    """Bytes that a process can still have: on a GPU within the share of it that torch may take, on a CPU within the
    container's limit."""
    if device != "cpu":
        import torch

        driver, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.get_per_process_memory_fraction(device)
        return free_on_gpu(
            driver, int(share * total), torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        )
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limits, used = _lines(Path("/sys/fs/cgroup/memory.max")), _lines(Path("/sys/fs/cgroup/memory.current"))
    if limits and used and limits[0].isdecimal():
        free = min(free, int(limits[0]) - int(used[0]))
    return free


def free_on_gpu(driver: int, limit: int, reserved: int, allocated: int) -> int:
    """What the driver still has, but no more than leads up to the limit; and what torch holds and nobody uses."""
    return max(0, min(driver, limit - reserved)) + reserved - allocated


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
