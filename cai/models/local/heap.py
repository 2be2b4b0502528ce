"""How a CPU's memory is handed out: glibc told to give large blocks back at once.

By itself glibc raises, with the first large block that is freed, the size from which blocks have a mapping of their
own. From then on tensors of up to 32 MiB share one heap, and between two that live on lie those that were let go,
where no aligned block of their own size fits. Training the embedded model then takes twice the memory of its tensors,
and never twice the same.
"""

import ctypes
import platform

OWN_MAPPING = 1 << 20
"""Bytes from which on a block has a mapping of its own, and goes back to the system when it is freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def hand_back_large_blocks() -> bool:
    """Keep glibc's thresholds where they are put; False where the C library is another one, which has none."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, OWN_MAPPING))
