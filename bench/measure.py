"""What the benches share: interleaved timing of several ways to do the same work, and results that can be kept.

Machines are shared and noisy, so every way is timed in turn, several times over; what counts are medians and ratios.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
GUIDE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"
GENERATING = ("generate", "critique", "judge")
BENCHES = (*GENERATING, "chat", *(f"{name}-embedded" for name in GENERATING), "dpo", "sft", "reward", "kto", "grpo")
START, END = "<!-- figures: make bench -->", "<!-- end of figures -->"
BEHIND = 1.05
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True)
class Result:
    """One comparison. `ours` and `peer` are rates: more is better."""

    name: str
    ours: float
    peer: float
    ratio: float
    goal: float
    met: bool
    floor_share: float | None = None
    """How much of the rate that bare forward passes would allow is reached."""


def compared(name: str, ours: float, peer: float, goal: float, floor_share: float | None = None) -> Result:
    ratio = ours / peer
    return Result(name, round(ours, 3), round(peer, 3), round(ratio, 3), goal, ratio >= goal, floor_share)


def median_seconds(
    ways: Mapping[str, Callable[[], object]], repeats: int = 5, rivals: Sequence[str] = ()
) -> dict[str, float]:
    """Each way's median time. They take turns, so that a slow minute of the machine hits all of them.

    Of `rivals` only the fastest counts: whoever is behind it by more than `BEHIND` in the first round is timed once.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    racing = list(ways)
    for _ in range(repeats):
        for name in racing:
            start = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - start)
        fastest = min((times[name][0] for name in rivals), default=0.0)
        racing = [name for name in ways if name not in rivals or times[name][0] <= BEHIND * fastest]
    return {name: statistics.median(taken) for name, taken in times.items()}


def machine() -> dict[str, object]:
    import torch

    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def report(bench: str, results: Sequence[Result], facts: Mapping[str, object]) -> None:
    """A table, a file under `bench/results/`, and one last line for programs."""
    width = max(len(result.name) for result in results)
    print(f"\n{'':{width}}  {'ours':>10}  {'peer':>10}  {'ratio':>7}  {'goal':>6}  of the floor")
    for r in results:
        share = "" if r.floor_share is None else f"{r.floor_share:.0%}"
        mark = "met" if r.met else "missed"
        print(f"{r.name:{width}}  {r.ours:10.2f}  {r.peer:10.2f}  {r.ratio:6.2f}x  {r.goal:5.1f}x  {share:>5}  {mark}")
    told = {"bench": bench, "results": [asdict(result) for result in results]}
    RESULTS.mkdir(exist_ok=True)
    kept = {**told, "machine": machine(), "facts": dict(facts)}
    (RESULTS / f"{bench}.json").write_text(json.dumps(kept, indent=1) + "\n")
    write_table()
    print(json.dumps(told))


def write_table() -> None:
    """The guide's table, from the results that are kept."""
    before, _, rest = GUIDE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    GUIDE.write_text(f"{before}{START}\n{table()}\n{END}{after}", "utf-8")


def table() -> str:
    lines = ["| bench | compared | ours | peer | ratio | asked |", "|---|---|---|---|---|---|"]
    for bench in BENCHES:
        path = RESULTS / f"{bench}.json"
        for each in json.loads(path.read_text())["results"] if path.exists() else []:
            share = f", {each['floor_share']:.0%} of the floor" if each["floor_share"] else ""
            figures = f"{each['ours']:.2f} | {each['peer']:.2f} | {each['ratio']:.2f}×{share} | {each['goal']:.2f}×"
            lines.append(f"| {bench.replace('-', ', ')} | {each['name']} | {figures} |")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
