"""Large blocks go back to the system where memory is scarce, in a process of its own: thresholds are the process's."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from cai.models.local.heap import LOOSE, suit_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

needed = 1 << 30
room = needed * (LOOSE + (1 if sys.argv[1] == "plenty" else -1))
assert suit_memory(needed, room) == (sys.argv[1] == "scarce")
keep, go = [], []
first = torch.ones(4 << 20)  # 16 MiB: freeing it raises the threshold that glibc sets itself
del first
before = resident()
for _ in range(32):
    go.append(torch.ones(1 << 20))
    keep.append(torch.ones(1 << 14))  # 64 KiB between two blocks of 4 MiB
del go
print(resident() - before)
"""


def left(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_what_was_freed_between_blocks_that_live_goes_back() -> None:
    scarce, plenty = left("scarce"), left("plenty")
    assert scarce < 16 << 20
    assert plenty > 4 * scarce
