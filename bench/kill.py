"""`kill -9` at random moments of every stage: a run that goes on must end byte for byte like one that was left alone.

    python bench/kill.py [PIPELINE] [--moments 30] [--prompts 24] [--seed 1] [--work DIR]

One run is left alone and its stages are timed. Then, for each moment, a fresh run is killed at a random point of one
stage, the stages in turn, and the same command is given again. Compared are all files but the two that hold times.
The last line is JSON for programs, and also goes to `bench/results/kill.json`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cai.files import sha256_of
from cai.pipeline.spec import load_pipeline
from cai.seeds import derive, uniform
from cai.store.run_folder import read_events, read_run

ROOT = Path(__file__).resolve().parent.parent
TIMES = ("events.jsonl", ".lock")
CAI = [sys.executable, "-c", "from cai.cli.main import run; run()"]


@dataclass(frozen=True)
class Moment:
    """A stage, and how long after its start the process is killed."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Ending:
    """How one killed run ended, and which files differ from the run that was left alone."""

    moment: Moment
    killed: bool
    differing: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", nargs="?", type=Path, default=ROOT / "pipelines" / "quickstart.yaml")
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=24, help="of each set")
    parser.add_argument("--seed", type=int, default=1, help="which random moments")
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="cai-kill-"))
    limits = [f"prompts.{part}.limit={options.prompts}" for part in ("train", "test")]
    command = [*CAI, "run", str(options.pipeline), *(word for limit in limits for word in ("--set", limit))]
    load_pipeline(options.pipeline, limits)  # A wrong pipeline is told before anything runs.

    whole = work / "whole"
    if not whole.exists():
        subprocess.run([*command, "--out", str(whole)], check=True, stdout=subprocess.DEVNULL)
    expected, spans = contents(whole), stage_seconds(whole)
    moments = [drawn_moment(spans, options.seed, number) for number in range(options.moments)]
    endings = []
    for number, moment in enumerate(moments, 1):
        endings.append(ending(command, work / "killed", moment, expected))
        show(number, endings[-1])
    summarise(endings, len(expected))
    shutil.rmtree(work / "killed", ignore_errors=True)
    sys.exit(any(e.differing for e in endings))


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMES)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}


def stage_seconds(folder: Path) -> dict[str, float]:
    """How long each stage took, from the events of a whole run."""
    times = {(event.kind, event.stage): event.time for event in read_events(folder)}
    starts = {stage: at for (kind, stage), at in times.items() if kind == "stage_started"}
    return {stage: times["stage_finished", stage] - at for stage, at in starts.items()}


def drawn_moment(spans: dict[str, float], seed: int, number: int) -> Moment:
    stage = list(spans)[number % len(spans)]
    return Moment(stage, uniform(derive("kill", seed, number), 0) * spans[stage])


def ending(command: list[str], folder: Path, moment: Moment, expected: dict[str, str]) -> Ending:
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen([*command, "--out", str(folder)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not has_started(folder, moment.stage):
        time.sleep(0.01)
    try:
        process.wait(moment.seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    killed = process.returncode == -9
    again = subprocess.run([*command, "--out", str(folder)], check=False, stdout=subprocess.DEVNULL)
    found = contents(folder)
    differing = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    if again.returncode or read_run(folder).state != "done":
        differing.append(f"exit code {again.returncode}")
    return Ending(moment, killed, differing)


def has_started(folder: Path, stage: str) -> bool:
    return any(event.kind == "stage_started" and event.stage == stage for event in read_events(folder))


def show(number: int, ended: Ending) -> None:
    others = len(ended.differing) - 3
    named = ", ".join(ended.differing[:3]) + (f" and {others} more" if others > 0 else "")
    verdict = f"differs: {named}" if ended.differing else "identical"
    how = "killed" if ended.killed else "was done before"
    print(f"{number:3d}  {ended.moment.stage:12s} +{ended.moment.seconds:6.2f} s  {how:16s} {verdict}", flush=True)


def summarise(endings: list[Ending], files: int) -> None:
    result = {
        "bench": "kill",
        "moments": len(endings),
        "killed": sum(e.killed for e in endings),
        "by_stage": dict(Counter(e.moment.stage for e in endings if e.killed)),
        "files_compared": files,
        "identical": sum(not e.differing for e in endings),
    }
    line = json.dumps(result)
    (ROOT / "bench" / "results").mkdir(exist_ok=True)
    (ROOT / "bench" / "results" / "kill.json").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
