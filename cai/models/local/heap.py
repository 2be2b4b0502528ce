"""How a CPU's memory is handed out: where it is scarce, glibc is told to give large blocks back at once, and where
there is plenty, to keep them from the first one on.

Either way all threads share one heap: each of the two lanes of a pass would otherwise get its own (`lanes`), and keep
what the other could use.

By itself glibc raises, with the first large block that is freed, the size from which blocks have a mapping of their
own. From then on tensors of up to 32 MiB share one heap, and between two that live on lie those that were let go,
where no aligned block of their own size fits. Fine-tuning then takes up to twice the memory of its tensors, and never
twice the same. In exchange pages are used again instead of being mapped anew, which can make it twice as fast; but the
sizes at which glibc does so grow slowly, and it still gives back what lies at the heap's end.
"""

import ctypes
import platform

LOOSE = 2.5
"""How many times the memory of its tensors a process may take by glibc's own rules, with some room to spare."""
OWN_MAPPING = 1 << 19
"""Bytes from which on a block has a mapping of its own, where memory is scarce: a lane's tensors have half the rows."""
LARGEST_SHARED, KEPT = 32 << 20, (1 << 31) - 1
"""Where there is plenty: the largest threshold that glibc takes, and what may lie free at the heap's end."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def suit_memory(needed: int, room: int) -> bool:
    """Give up speed for memory where `room` holds what is needed, but not all that would be taken; else memory for
    speed. Whether it is scarce."""
    scarce = LOOSE * needed > room
    if scarce:
        hand_back_large_blocks()
    else:
        _set_thresholds(LARGEST_SHARED, KEPT)
    return scarce


def hand_back_large_blocks() -> None:
    _set_thresholds(OWN_MAPPING, OWN_MAPPING)


def _set_thresholds(mapped: int, trimmed: int) -> None:
    """Put glibc's thresholds where they stay; another C library has none."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, mapped)
        libc.mallopt(_M_TRIM_THRESHOLD, trimmed)
        libc.mallopt(_M_ARENA_MAX, 1)
