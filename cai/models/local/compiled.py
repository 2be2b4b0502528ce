"""A library of C made by the machine's own compiler, once for all processes: it lies beside other things that can be
made again, under a name that says of what, how and for which processor. What is called in it is `kernels`'s.

`CC` names another compiler than `cc`; set to nothing it says that none is to be used.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from cai.errors import CaiError
from cai.files import write_atomic
from cai.records import digest

FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared")
_SECONDS = 120
"""What takes a compiler longer is taken for hung."""


def compiler() -> list[str] | None:
    """The command, if this machine has it."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else None


def library(source: Path) -> ctypes.CDLL | None:
    """The functions of a file of C; none where no compiler makes them."""
    found = compiler()
    if found is None:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cai" / "kernels"
    kept = cache / f"{digest([source.read_text('utf-8'), FLAGS, found, _processor()])[:32]}.so"
    with suppress(OSError):
        if _is_ours(kept):
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(prefix="cai-") as folder:
        made = Path(folder, "made.so")
        command = [*found, *FLAGS, "-o", str(made), str(source), "-lm"]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            with suppress(CaiError):
                write_atomic(kept, made.read_bytes())
            return ctypes.CDLL(str(made))
    return None


def _is_ours(path: Path) -> bool:
    """Nobody else wrote it, and nobody else can."""
    facts = path.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & 0o022


def _processor() -> list[str]:
    """What a compiler may make use of."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return [platform.machine(), *sorted({line for line in lines if line.startswith(("flags", "Features"))})]
    return [platform.machine(), platform.node()]
