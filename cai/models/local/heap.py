"""How a CPU's memory is handed out: where it is scarce, glibc is told to give large blocks back at once.

By itself glibc raises, with the first large block that is freed, the size from which blocks have a mapping of their
own. From then on tensors of up to 32 MiB share one heap, and between two that live on lie those that were let go,
where no aligned block of their own size fits. Fine-tuning then takes up to twice the memory of its tensors, and never
twice the same. In exchange pages are used again instead of being mapped anew, which can make it twice as fast.
"""

import ctypes
import platform

LOOSE = 2.5
"""How many times the memory of its tensors a process may take by glibc's own rules, with some room to spare."""
OWN_MAPPING = 1 << 20
"""Bytes from which on a block has a mapping of its own, where memory is scarce."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def save_memory_if_scarce(needed: int, room: int) -> bool:
    """Give up speed for memory where `room` holds what is needed, but not all that would be taken."""
    return LOOSE * needed > room and hand_back_large_blocks()


def hand_back_large_blocks() -> bool:
    """Keep glibc's thresholds where they are put; False where the C library is another one, which has none."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, OWN_MAPPING))
