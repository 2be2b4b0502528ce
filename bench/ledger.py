"""The ledger of every stage, over random pipelines with failing calls, stopped and killed at random moments.

    python -m bench.ledger [--trials 60] [--kills 2] [--seed 1]

A trial draws a list of stages (revise, prefer, filter, with settings of their own), prompts, and an endpoint on this
machine that answers some calls with errors, empty texts, texts that stand twice, texts without an end and texts that
filters take. The pipeline runs once undisturbed; then again, stopped at random moments and started anew, and again with
`kill -9`. Every input of every stage must be found among its records or its rejects, each with a reason; and what the
disturbed runs leave must be the undisturbed one's, byte for byte, a refusal by its words. The last line is JSON for
programs, and also goes to `bench/results/ledger.json`.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.errors import CaiError, Interrupted
from cai.files import sha256_of
from cai.journal import read_lines
from cai.manifest import verify_manifest
from cai.pipeline.configs import FilterConfig, PreferConfig, ReviseConfig
from cai.pipeline.reading import read_records
from cai.pipeline.runner import never, run_pipeline
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.records import Preference, Reject, Revision, from_line
from tests.models.remote.fake_server import Asked, Served, running

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "ledger.json"
_FOR_GOOD = ("400", "too long", "content filter", "tool call", "cut off")
_PASSING = ("500", "429 seconds", "bad json", "reset", "empty choices")


@dataclass(frozen=True)
class Trial:
    """One pipeline and what goes wrong in it. The same seed draws the same."""

    seed: int
    stages: str
    prompts: int
    failing: float
    """Share of calls that never succeed; as many again fail once."""

    def draw(self, *what: object) -> random.Random:
        return random.Random(repr((self.seed, *what)))


@dataclass
class Seen:
    """What the trials came across: a bench in which nothing happened has shown nothing."""

    stages: Counter[str]
    rejects: Counter[str]
    stops: int = 0
    kills: int = 0
    refusals: int = 0


def drawn_trial(seed: int) -> Trial:
    rng = random.Random(f"trial {seed}")
    stages = [_revise(rng)]
    for _ in range(rng.randint(1, 5)):
        kinds = ["revise", "prefer", "prefer", "samples", "filter revisions", "filter revisions"]
        kinds += ["filter"] * 4 * any("prefer" in stage for stage in stages)
        stages.append(_stage(rng, rng.choice(kinds)))
    return Trial(seed, ", ".join(stages), rng.randint(4, 14), rng.choice([0.0, 0.05, 0.15]))


def _revise(rng: random.Random) -> str:
    rounds, chunk = rng.randint(1, 2), rng.randint(1, 6)
    return f"{{revise: {{rounds: {rounds}, chunk: {chunk}, max_new_tokens: {rng.randint(20, 90)}, {_ROLES}}}}}"


_ROLES = "answerer: teacher, critic: teacher"


def _stage(rng: random.Random, kind: str) -> str:
    if kind == "revise":
        return _revise(rng)
    if kind == "prefer":
        return f"{{prefer: {{judge: teacher, chunk: {rng.randint(1, 6)}, principles: {rng.choice(['all', 'drawn'])}}}}}"
    if kind == "samples":
        samples, chunk = rng.randint(2, 4), rng.randint(1, 5)
        return f"{{prefer: {{pairs: samples, samples: {samples}, from: teacher, judge: teacher, chunk: {chunk}}}}}"
    settings = [
        f"{name}: {rng.choice(['true', 'false'])}" for name in ("exact_duplicates", "private_data", "poor_text")
    ]
    settings += [f"near_duplicates: {rng.choice(['null', '0.5', '0.9'])}", f"bursts: {rng.choice(['null', '0.2'])}"]
    settings += (
        ["of: revisions"] if kind != "filter" else [f"balance_lengths: {rng.choice(['true', 'false', 'false'])}"]
    )
    return f"{{filter: {{{', '.join(settings)}}}}}"


def served_for(trial: Trial) -> Served:
    """An endpoint that answers, and fails, by the question alone, in whatever order it is asked."""

    def plan(asked: Asked, attempt: int) -> str:
        rng = trial.draw("plan", asked.key)
        chance = rng.random()
        if asked.probes or chance >= 2 * trial.failing:
            return "ok"
        if chance < trial.failing:
            return rng.choice(_FOR_GOOD)
        return rng.choice(_PASSING) if attempt == 1 else "ok"

    def answer(asked: Asked) -> str:
        rng = trial.draw("answer", asked.key)
        letters = hashlib.sha256(asked.key.encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
        said = " ".join(letters[i : i + 6] for i in range(0, 6 * rng.randint(2, 9), 6))
        odd = [
            "",
            "...",
            "Nobody knows.",
            f"{said} Write to max@mail.school.org.",
            f"{said} gleaming turnips wander home",
        ]
        return rng.choice(odd) if rng.random() < 0.35 else said

    return Served(plan=plan, answer=answer, p_of_a=lambda asked: trial.draw("judge", asked.key).random())


def written(trial: Trial, server: Served, folder: Path) -> Path:
    """The trial's pipeline file."""
    path = folder / "trial.yaml"
    prompts = f"train: {{from: tiny/align, limit: {trial.prompts}}}, test: {{from: tiny/test, limit: 4}}"
    path.write_text(
        f"name: trial\nseed: {trial.seed}\nconstitution: {ROOT}/constitutions/tiny.yaml\n"
        f"models: {{teacher: {{url: '{server.url}', model: small, tries: 4, call_seconds: 5}}}}\n"
        f"prompts: {{{prompts}}}\nstages: [{trial.stages}]\n",
        encoding="utf-8",
    )
    return path


def outcome(pipeline: Pipeline, folder: Path, stop: Callable[[], bool] = never) -> str:
    """How a run ended: nothing to say, or its refusal. `Interrupted` is the caller's."""
    try:
        list(run_pipeline(pipeline, folder, stop))
    except Interrupted:
        raise
    except CaiError as error:
        return str(error).replace(str(folder), "RUN")
    return ""


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted((folder / "stages").rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def folders_of(run: Path, stages: Sequence[Stage]) -> dict[int, Path]:
    """The folders of the stages that are done."""
    found = {s.number: list((run / "stages").glob(f"{s.name}-*")) for s in stages}
    return {n: paths[0] for n, paths in found.items() if paths and (paths[0] / "manifest.json").exists()}


def check_ledgers(pipeline: Pipeline, run: Path, seen: Seen) -> None:
    """Counts every stage's inputs anew from what it read, and looks for each of them in what it left."""
    folders = folders_of(run, pipeline.stages)
    for stage in pipeline.stages:
        if stage.number not in folders:
            break
        folder = folders[stage.number]
        manifest = verify_manifest(folder)
        rejects = [from_line(Reject, line) for line in read_lines(folder / "rejects.jsonl")]
        records = len(list(read_lines(folder / "records.jsonl")))
        counts = {"inputs": records + len(rejects), "outputs": records, "rejects": len(rejects)}
        assert manifest.counts == counts, (stage.name, manifest.counts, counts)
        reasons = Counter(reject.reason for reject in rejects)
        assert manifest.facts["rejects"] == reasons, (stage.name, reasons)
        assert all(reject.reason and reject.detail and reject.stage == stage.kind for reject in rejects), rejects
        _check_inputs(pipeline, stage, folders, [reject.id for reject in rejects])
        seen.stages[stage.kind] += 1
        seen.rejects.update(reasons)


def _check_inputs(pipeline: Pipeline, stage: Stage, folders: dict[int, Path], rejected: list[str]) -> None:
    folder, sources = folders[stage.number], stage.sources
    revisions = read_records(Revision, [folders[n] for n in sources.revisions])
    match stage.config:
        case ReviseConfig():
            made = [revision.prompt.id for revision in read_records(Revision, [folder])]
            assert Counter(made + rejected) == Counter(prompt.id for prompt in pipeline.train), stage.name
        case FilterConfig():
            kind: type[Revision | Preference] = Revision if stage.config.of == "revisions" else Preference
            read = [folders[n] for n in (*sources.revisions, *sources.preferences)]
            before = [record.id for record in read_records(kind, read)]
            after = [record.id for record in read_records(kind, [folder])]
            assert Counter(after + rejected) == Counter(before), stage.name
            left = iter(before)
            assert all(i in left for i in after), (stage.name, "another order")
        case PreferConfig(pairs="revisions"):
            made = [pair.origin.partition(":")[2] for pair in read_records(Preference, [folder])]
            assert set(made) <= {revision.id for revision in revisions}, stage.name
            assert len(made) + len(rejected) == len(revisions), stage.name
        case PreferConfig():
            made = [pair.prompt.id for pair in read_records(Preference, [folder])]
            alone = {prompt.id for prompt in pipeline.train} - {*made, *rejected}
            # A prompt of which every pair was rejected stands in the ledger by its pairs.
            assert len(alone) <= len(set(rejected) - {prompt.id for prompt in pipeline.train}), (stage.name, alone)
        case _:
            raise AssertionError(stage.kind)


def stopped_run(pipeline: Pipeline, folder: Path, rng: random.Random, seen: Seen) -> str:
    """The pipeline stopped at random looks at the wish to stop, and started again each time."""
    for _ in range(40):
        left = rng.randint(1, 6)

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        try:
            return outcome(pipeline, folder, stop)
        except Interrupted:
            seen.stops += 1
    return outcome(pipeline, folder)


_KILLED = """
import os, signal, sys
from pathlib import Path
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.errors import CaiError
try:
    for number, event in enumerate(run_pipeline(load_pipeline(Path(sys.argv[1])), Path(sys.argv[2]))):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
except CaiError:
    pass
"""


def killed_run(path: Path, folder: Path, rng: random.Random, kills: int, seen: Seen) -> str:
    """`kill -9` after a random event, or at a random time within it, and the same command again."""
    for _ in range(kills):
        command = [sys.executable, "-c", _KILLED, str(path), str(folder), str(rng.randint(1, 12))]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seen.kills += process.returncode == -signal.SIGKILL
    return outcome(load_pipeline(path), folder)


def tried(trial: Trial, folder: Path, kills: int, seen: Seen) -> str:
    """One trial; how its undisturbed run ended. What does not hold raises."""
    with running(served_for(trial)) as server:
        path = written(trial, server, folder)
        pipeline = load_pipeline(path)
        expected = outcome(pipeline, folder / "whole")
        seen.refusals += bool(expected)
        check_ledgers(pipeline, folder / "whole", seen)
        runs = {"stopped": stopped_run(pipeline, folder / "stopped", trial.draw("stops"), seen)}
        if kills:
            runs["killed"] = killed_run(path, folder / "killed", trial.draw("kills"), kills, seen)
        for name, ended in runs.items():
            assert ended == expected, (trial, name, ended, expected)
            assert contents(folder / name) == contents(folder / "whole"), (trial, name)
    return expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--kills", type=int, default=2, help="in each trial")
    parser.add_argument("--seed", type=int, default=1, help="of the first trial; the others follow")
    given = parser.parse_args()
    seen = Seen(Counter(), Counter())
    for seed in range(given.seed, given.seed + given.trials):
        trial = drawn_trial(seed)
        with tempfile.TemporaryDirectory(prefix="cai-ledger-") as folder:
            ended = tried(trial, Path(folder), given.kills, seen)
        print(f"{seed:4} {trial.prompts:3} prompts, {trial.failing:.0%} failing: {trial.stages}")
        if ended:
            print(f"     refused alike: {ended}")
    results = [
        {"name": "trials", "value": given.trials},
        {"name": "stages whose ledger closed", "value": seen.stages.total()},
        {"name": "reasons of rejects", "value": len(seen.rejects)},
        {"name": "stops", "value": seen.stops},
        {"name": "kills", "value": seen.kills},
        {"name": "runs refused alike", "value": seen.refusals},
    ]
    found = {
        "bench": "ledger",
        "stages": seen.stages,
        "rejects": dict(sorted(seen.rejects.items())),
        "results": results,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({"bench": "ledger", "results": results}))


if __name__ == "__main__":
    main()
