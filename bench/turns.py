"""Children that take turns: every side of a training bench runs in a process of its own, one piece of work at a time.

A slow minute of the machine then hits all of them, and each has a peak of memory that is its own.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memory import status

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
ROWS = 8
"""Pairs, or answers, behind one update."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a child is to do."""

    way: str
    folder: str
    """Where the model lies, and the adapter that every side begins with."""
    batches: int
    only: int | None = None
    """The one batch to train on, where it is not all of them."""
    per_pass: int = ROWS
    """TRL's rows of a forward pass; the rest of an update is accumulated."""
    ordered: bool = True
    """Whether the rows of an update come by their lengths, as ours do."""
    micro_tokens: int = 4096
    """Our memory knob."""
    sampled: int = 0
    """Answers that TRL samples at once, where it samples."""
    bf16: bool = False
    """Compute in bf16, each side as it does that."""

    @property
    def model(self) -> str:
        return str(Path(self.folder) / "13M")

    @property
    def adapter(self) -> Path:
        return Path(self.folder) / "adapter"


class Turns:
    """A child's side of taking turns: every piece of work waits until it is asked for, and is timed."""

    def __init__(self) -> None:
        # Whatever libraries print goes where errors go.
        self._told = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._start: float | None = None
        self._found: dict[str, float | None] = {}
        self._more: Counter[str] = Counter()
        self._before = 0

    def watch(self) -> None:
        """From here on memory counts: libraries are there, the model is not."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self._before = status("VmRSS")

    def begin(self) -> None:
        self.tell()
        if not sys.stdin.readline():
            raise SystemExit("the bench ended before this child did")
        self._start = time.perf_counter()

    def so_far(self) -> float:
        """Seconds since this piece of work began."""
        assert self._start is not None, "a piece is asked for its time that never began"
        return time.perf_counter() - self._start

    def add(self, **more: float) -> None:
        """Numbers to be told at this piece's end, each of them a sum over what is added."""
        self._more.update(more)

    def end(self, loss: float | None = None) -> None:
        self._found = {"seconds": self.so_far(), "loss": loss, **self._more}
        self._start = None
        self._more.clear()

    def tell(self) -> None:
        self._told.write(json.dumps({**self._found, "peak": status("VmHWM") - self._before}) + "\n")
        self._told.flush()

    def between(self) -> bool:
        """What our trainers ask before each batch of the reference and each update: whether to stop. Never."""
        if self._start is not None:
            self.end()
        self.begin()
        return False


Way = Callable[[Asked, Turns], None]


class Child:
    """The bench's side: a process that has done everything up to its first piece of work."""

    def __init__(self, script: str, asked: Asked) -> None:
        command = [sys.executable, script, "--child", json.dumps(asdict(asked))]
        environment = {**os.environ, **OFFLINE}
        self._asked = asked
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self.reports: list[dict[str, float]] = []
        self._heard()

    def turn(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.reports.append(self._heard())

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _heard(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self._asked}: {self._log.read()[-3000:]}")
        told: dict[str, float] = json.loads(line)
        return told


@dataclass(frozen=True, slots=True)
class Taken:
    """What one side took: seconds and loss of each batch, and its peak memory in bytes."""

    seconds: list[float]
    losses: list[float]
    peak: float
    more: dict[str, list[float]]
    """What else was told of each batch."""


def race(script: str, sides: Mapping[str, tuple[Asked, int]], batches: int) -> dict[str, Taken]:
    """All sides in turn, batch by batch. A side whose reference comes first has two pieces of work for each batch."""
    children = {name: Child(script, asked) for name, (asked, _) in sides.items()}
    for number in range(batches):
        for name, (_, pieces) in sides.items():
            for _ in range(pieces):
                children[name].turn()
            spent = sum(report["seconds"] for report in children[name].reports[-pieces:])
            print(f"  update {number + 1} of {batches}, {name}: {spent:.2f} s", flush=True)
    for child in children.values():
        child.close()
    return {name: taken(child.reports, batches) for name, child in children.items()}


def taken(reports: Sequence[Mapping[str, float]], batches: int) -> Taken:
    seconds = [sum(report["seconds"] for report in reports[k::batches]) for k in range(batches)]
    last = reports[-batches:]
    more = {name: [report[name] for report in last] for name in last[0] if name not in ("seconds", "loss", "peak")}
    return Taken(seconds, [report["loss"] for report in last], reports[-1]["peak"], more)
