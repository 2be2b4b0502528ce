"""An 8B model on a GPU: what it takes, how fast it answers, judges and trains, each against its peer and its bar.

    python bench/gpu.py [--only NAME ...] [--size 8b|tiny] [--device cuda|cpu] [--work DIR] [--out FILE]

The model is a Llama of 8 billion random weights in 4 bits with LoRA of rank 16. They are drawn on the device and
written in 16 bits to a temporary folder (16 GB), which is deleted at the end, or to --work, which is kept. Each part
runs in a process of its own, so that its memory is its own, and its result is kept as soon as it is there; one that
fails says why, and the others go on. Results go to bench/results/gpu.json, where --only replaces the named parts.

`--size tiny --device cpu` runs the same code on a tiny model, in one process, to see that it works: no bar is judged.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from measure import RESULTS, machine

if TYPE_CHECKING:
    from gpu_model import Asked, Found

PARTS = {
    "resident": ("gpu_decode", "resident"),
    "decode": ("gpu_decode", "generate"),
    "judge": ("gpu_decode", "judge"),
    "turns": ("gpu_decode", "turns"),
    "vllm": ("gpu_decode", "vllm"),
    "dpo": ("gpu_train", "dpo"),
    "use": ("gpu_train", "use"),
    "ppo": ("gpu_train", "ppo"),
    "stages": ("gpu_train", "stages"),
}
MODEL = {"model": ("gpu_model", "write_model")}
"""Each part's module and function. The model comes first, in a process that lets the device go."""
HOUR = 3600


def main() -> None:
    if len(sys.argv) > 3 and sys.argv[1] == "--child":
        from gpu_model import Asked

        print(json.dumps(run_here(sys.argv[2], Asked(**json.loads(sys.argv[3])))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--size", choices=["8b", "tiny"], default="8b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--work", type=Path, default=None, help="where the random weights are written, and kept")
    parser.add_argument("--out", type=Path, default=None, help="the file of results")
    asked = parser.parse_args()
    missing = what_is_missing(asked.device, asked.size)
    if missing:
        raise SystemExit(missing)
    with tempfile.TemporaryDirectory(prefix="cai-gpu-") as folder:
        out = asked.out or (RESULTS / "gpu.json" if asked.device == "cuda" else Path(folder) / "gpu.json")
        run(asked.only, asked.size, asked.device, asked.work or Path(folder), out)


def what_is_missing(device: str, size: str) -> str:
    """In one sentence, why the bench cannot run here; nothing where it can."""
    if find_spec("torch") is None:
        return "this Python has no torch: run `make bench-gpu`, or the script with .venv/bin/python"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return (
            "torch finds no CUDA device here: run this on a machine with an NVIDIA GPU and a CUDA build of torch, or "
            "see with --size tiny --device cpu that the script works"
        )
    if device == "cpu" and size != "tiny":
        return "8 billion weights are too many for a CPU: add --size tiny"
    return ""


def run(names: list[str], size: str, device: str, work: Path, out: Path) -> None:
    from gpu_model import Asked

    asked = Asked(size, "cuda:0" if device == "cuda" else "cpu", str(work))
    work.mkdir(parents=True, exist_ok=True)
    run_one = run_here if device == "cpu" else run_apart
    if failed := run_one("model", asked)["failed"]:
        raise SystemExit(f"the model could not be written to {work}: {failed}")
    kept = json.loads(out.read_text())["parts"] if out.exists() else {}
    for name in names:
        print(f"== {name}", flush=True)
        kept[name] = run_one(name, asked)
        write(out, kept, size)
    table(kept, names)
    results = [result for name in PARTS if name in kept for result in kept[name]["results"]]
    print(json.dumps({"bench": "gpu", "results": results}))
    if any(kept[name]["failed"] for name in names):
        raise SystemExit(1)


def run_here(name: str, asked: "Asked") -> dict[str, object]:
    """One part in this process: its results, its facts, and why there are no more of them."""
    from gpu_model import Found, let_go

    found = Found(asked.judged)
    failed = None
    try:
        part(name)(asked, found)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever stops one part is told, and the others go on)
        failed = f"{type(error).__name__}: {error}".partition("\n")[0]
    let_go()
    return {"results": found.results, "facts": found.facts, "failed": failed, "machine": machine()}


def run_apart(name: str, asked: "Asked") -> dict[str, object]:
    """One part in a process of its own, which may die of its memory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, json.dumps(asdict(asked))]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=HOUR)
    except subprocess.TimeoutExpired:
        return {"results": [], "facts": {}, "failed": "took more than an hour", "machine": {}}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"results": [], "facts": {}, "failed": f"its process ended with {done.returncode}", "machine": {}}
    found: dict[str, object] = json.loads(lines[-1])
    return found


def part(name: str) -> "Callable[[Asked, Found], None]":
    module, function = {**PARTS, **MODEL}[name]
    found: Callable[[Asked, Found], None] = getattr(import_module(module), function)
    return found


def write(out: Path, kept: dict[str, dict[str, object]], size: str) -> None:
    ordered = {name: kept[name] for name in PARTS if name in kept}
    results = [result for each in ordered.values() for result in each["results"]]  # type: ignore[attr-defined]
    told = {"bench": "gpu", "size": size, "results": results, "parts": ordered}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")


def table(kept: dict[str, dict[str, object]], names: list[str]) -> None:
    for name in names:
        print(f"\n{name}")
        for each in kept[name]["results"]:  # type: ignore[attr-defined]
            goal = "" if each["goal"] is None else f"{each['goal']:.2f}x"
            met = {True: "met", False: "missed", None: "not judged"}[each["met"]]
            figures = f"{each['ours']:14.2f}  {each['peer']:14.2f}  {each['ratio']:6.2f}x  {goal:>6}  {met}"
            print(f"  {each['name']:76} {figures}")
        for key, value in kept[name]["facts"].items():  # type: ignore[attr-defined]
            print(f"  {key}: {value}")
        if kept[name]["failed"]:
            print(f"  failed: {kept[name]['failed']}")


if __name__ == "__main__":
    main()
