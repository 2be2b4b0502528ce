"""Large blocks go back to the system when they are freed, in a process of its own: thresholds are the process's."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from cai.models.local.heap import hand_back_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "told":
    assert hand_back_large_blocks()
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
    told, untold = left("told"), left("untold")
    assert told < 16 << 20
    assert untold > 4 * told
