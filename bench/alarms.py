"""Whether planted failures raise the right alarm in time, and whether healthy trainings keep quiet.

    python bench/alarms.py [--seeds 1001 1002 1003 1004 1005] [--healthy 100] [--only NAME ...] [--work DIR]

Short trainings of the embedded model on pairs and prompts of which the better answer is known. Each failure is planted
on five seeds; healthy trainings differ in method, loss, rate, schedule, batch and noise. Thresholds were chosen on
seeds below 1000. Every curve stays in the work folder, so that an interrupted bench goes on where it was, and a change
of the monitors needs no training. Results go to `bench/results/alarms.json`, the table to `docs/monitors.md`.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import alarms_pairs
import alarms_policy
from alarms_arena import Arena, Failure, Training
from alarms_healthy import HEALTHY, method_of
from measure import RESULTS, machine

from cai.errors import CaiError
from cai.train.monitors import Alarm, Watch

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "monitors.md"
START, END = "<!-- figures: bench/alarms.py -->", "<!-- end of figures -->"
FAILURES = (*alarms_pairs.FAILURES, *alarms_policy.FAILURES)
HEALTHY_BAR = 0.01

Curve = list[dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1001, 1006)))
    parser.add_argument(
        "--healthy", type=int, default=100, help="how many healthy trainings, on seeds from the last on"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="failures, or `healthy`, by name; nothing is written then"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "alarms")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    arena = Arena(asked.work)
    failures = [f for f in FAILURES if not asked.only or f.training.name in asked.only]
    found = [judged(arena, failure, asked.seeds, asked.work) for failure in failures]
    quiet_seeds = range(max(asked.seeds) + 1, max(asked.seeds) + 1 + asked.healthy)
    healthy = healthy_runs(arena, quiet_seeds, asked.work) if not asked.only or HEALTHY.name in asked.only else None
    if not asked.only:
        assert healthy is not None
        write_results(found, healthy)


@dataclass(frozen=True)
class Detected:
    """How one failure was noticed over its seeds."""

    name: str
    right: tuple[str, ...]
    by: int
    runs: int
    in_time: int
    latest: int | None
    """The latest update at which the first right alarm was raised; none if a run raised no right one."""
    kinds: dict[str, int]
    """Every kind of alarm, right or not, and in how many runs it was raised."""
    met: bool


@dataclass(frozen=True)
class Quiet:
    """What healthy trainings raised."""

    runs: int
    methods: dict[str, int]
    updates: int
    raised: int
    loud: dict[str, list[str]]
    """Those that raised one, by seed and method."""
    met: bool


def judged(arena: Arena, failure: Failure, seeds: Sequence[int], work: Path) -> Detected:
    firsts: list[int | None] = []
    kinds: Counter[str] = Counter()
    for seed in seeds:
        alarms = raised(curve(arena, failure.training, seed, work))
        firsts.append(min((alarm.step for alarm in alarms if alarm.kind in failure.right), default=None))
        kinds.update({alarm.kind for alarm in alarms})
        show(f"{failure.training.name} {seed}", alarms)
    in_time = sum(first is not None and first <= failure.by for first in firsts)
    known = [first for first in firsts if first is not None]
    latest = max(known) if len(known) == len(firsts) else None
    met = in_time == len(seeds)
    return Detected(failure.training.name, failure.right, failure.by, len(seeds), in_time, latest, dict(kinds), met)


def healthy_runs(arena: Arena, seeds: Sequence[int], work: Path) -> Quiet:
    methods: Counter[str] = Counter()
    loud: dict[str, list[str]] = {}
    updates = 0
    for seed in seeds:
        found = curve(arena, HEALTHY, seed, work)
        alarms, method = raised(found), method_of(seed)
        updates += len(found)
        methods[method] += 1
        if alarms:
            loud[f"{seed}, {method}"] = [alarm.kind for alarm in alarms]
        show(f"healthy {seed}, {method}", alarms)
    met = len(loud) <= HEALTHY_BAR * len(seeds)
    return Quiet(len(seeds), dict(methods), updates, len(loud), loud, met)


def curve(arena: Arena, training: Training, seed: int, work: Path) -> Curve:
    """The metrics of each update, kept as `metrics.jsonl` is. A training that its own trainer stops ends there."""
    kept = work / f"{training.name.replace(':', '').replace(' ', '-')}-{seed}.jsonl"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            try:
                steps = training.steps(arena, seed, Path(folder))
                lines += [json.dumps({"step": step.number, **step.metrics}) for step in steps if step.metrics]
            except CaiError as error:
                print(f"    {training.name} {seed}: {error}", flush=True)
                lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
        kept.write_text("".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in kept.read_text("utf-8").splitlines()]


def raised(found: Curve) -> list[Alarm]:
    watch = Watch()
    return [alarm for metrics in found for alarm in watch.see(metrics)]


def show(name: str, alarms: Sequence[Alarm]) -> None:
    print(f"{name:40} {', '.join(f'{alarm.kind} at {alarm.step}' for alarm in alarms)}", flush=True)


def write_results(found: Sequence[Detected], healthy: Quiet) -> None:
    told = {"bench": "alarms", "failures": [asdict(each) for each in found], "healthy": asdict(healthy)}
    (RESULTS / "alarms.json").write_text(json.dumps({**told, "machine": machine()}, indent=1) + "\n")
    before, _, rest = GUIDE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    GUIDE.write_text(f"{before}{START}\n{table(found, healthy)}\n{END}{after}", "utf-8")
    print(json.dumps(told))


def table(found: Sequence[Detected], healthy: Quiet) -> str:
    lines = [
        "| planted | right alarm in time | asked by update | the latest came at | right | raised as well |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        own, other = ([kind for kind in each.kinds if (kind in each.right) is right] for right in (True, False))
        told = " | ".join(", ".join(f"`{kind}`" for kind in sorted(kinds)) for kinds in (own, other))
        lines.append(f"| {each.name} | {each.in_time} of {each.runs} | {each.by} | {each.latest or '–'} | {told} |")
    kinds = Counter(kind for alarms in healthy.loud.values() for kind in set(alarms))
    loud = ", ".join(f"`{kind}`" for kind in sorted(kinds))
    drawn = ", ".join(f"{count} {method}" for method, count in healthy.methods.items())
    return "\n".join(
        [
            *lines,
            "",
            f"Of {healthy.runs} healthy trainings ({drawn}) {healthy.raised} raised an alarm{loud and ': '}{loud}.",
        ]
    )


if __name__ == "__main__":
    main()
