"""What torch knows of this machine: its version, its threads, its first GPU. Nothing is loaded onto a device."""

from dataclasses import dataclass

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
