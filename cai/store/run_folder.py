"""Run folders as they are seen from outside: what a run is called, how far it is, how it ended.

Everything is read from the files of the folder, so a run can be watched from another process and looked at years
later. Nothing here writes, and nothing here decides what a run does next.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cai.errors import InputError
from cai.files import LOCK_NAME
from cai.journal import read_lines
from cai.manifest import read_manifest
from cai.strict_yaml import read_yaml

State = Literal["running", "done", "failed", "interrupted", "waiting"]
RUN, EVENTS, STAGES, REPORT = "run.yaml", "events.jsonl", "stages", "report.html"
ADAPTER = "adapter"
"""Below a training stage's folder."""
RUNS = Path("runs")
"""Where runs lie that are called by name alone."""
_ENDS: dict[str, State] = {"run_finished": "done", "run_failed": "failed", "run_interrupted": "interrupted"}


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One line of `events.jsonl`; `number` counts from 1 and is a place to go on reading from."""

    number: int
    time: float
    kind: str
    stage: str
    data: dict[str, object]


@dataclass(frozen=True, slots=True)
class StageState:
    """`folder` is empty while the stage has none; `done` and `total` count chunks' rows or updates."""

    number: int
    kind: str
    folder: str
    state: State
    done: int = 0
    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Of a finished stage: inputs, outputs and rejects."""


@dataclass(frozen=True, slots=True)
class RunState:
    name: str
    folder: Path
    state: State
    stages: tuple[StageState, ...]
    error: str
    report: Path | None
    process: int | None = None
    """Who is working on it."""


def read_run(folder: Path) -> RunState:
    name, kinds = _plan(folder)
    events = _last_session(read_events(folder))
    process = lock_owner(folder)
    state = state_of(events, process)
    stages = tuple(_stage(folder, number, kind, events, state) for number, kind in enumerate(kinds, 1))
    error = error_of(events) if state == "failed" else ""
    report = folder / REPORT
    return RunState(name, folder, state, stages, error, report if report.exists() else None, process)


def state_of(events: Sequence[LoggedEvent], process: int | None) -> State:
    """By what was told last, and by who holds the folder: work without an end and without an owner was killed."""
    ended = _ENDS.get(events[-1].kind) if events else None
    return "running" if process else ended or ("interrupted" if events else "waiting")


def error_of(events: Sequence[LoggedEvent]) -> str:
    """Why it failed, if that was the last thing told."""
    return str(events[-1].data.get("error", "")) if events else ""


def list_runs(folder: Path) -> list[RunState]:
    """The runs below a folder, the one that last told something first."""
    found = [path.parent for path in folder.glob(f"*/{RUN}")] if folder.is_dir() else []
    return [read_run(path) for path in sorted(found, key=_last_sign, reverse=True)]


def read_events(folder: Path, after: int = 0) -> list[LoggedEvent]:
    """What the run told, from the event behind number `after` on. Lines that a kill cut short are left out."""
    return [event for event in _events(folder / EVENTS) if event.number > after]


def lock_owner(folder: Path) -> int | None:
    """The process that holds the run folder, if any does."""
    try:
        with open(folder / LOCK_NAME, "rb") as handle:
            written = handle.read(32).strip()
            if not written.isdigit():
                return None
            # A killed owner leaves its number behind, but not its hold.
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(written)
            return None
    except FileNotFoundError:
        return None


def stage_folders(folder: Path) -> list[Path]:
    """Every stage folder of a run, those of earlier settings included, in order."""
    return sorted(path for path in (folder / STAGES).glob("*") if path.is_dir())


def _plan(folder: Path) -> tuple[str, list[str]]:
    if not (folder / RUN).exists():
        remedy = "name a folder that `cai run` made, such as runs/quickstart"
        raise InputError(str(folder), f"is no run folder: it has no {RUN}", None, remedy)
    document = read_yaml(folder / RUN)
    try:
        pipeline = document.data["pipeline"]  # type: ignore[index]
        return str(pipeline["name"]), [next(iter(stage)) for stage in pipeline["stages"]]
    except (KeyError, TypeError, StopIteration):
        raise InputError(str(folder / RUN), "does not describe a run", None, "run the pipeline again") from None


def _events(path: Path) -> Iterator[LoggedEvent]:
    if not path.exists():
        return
    for number, line in enumerate(read_lines(path), 1):
        try:
            value = json.loads(line)
            yield LoggedEvent(number, value["time"], value["kind"], value["stage"], value["data"])
        except (ValueError, KeyError, TypeError):
            continue


def _last_session(events: list[LoggedEvent]) -> list[LoggedEvent]:
    starts = [i for i, event in enumerate(events) if event.kind == "run_started"]
    return events[starts[-1] :] if starts else events


def _stage(folder: Path, number: int, kind: str, events: list[LoggedEvent], run: State) -> StageState:
    own = [event for event in events if event.stage == f"{number:02d}-{kind}"]
    name = next((str(event.data["folder"]) for event in own if "folder" in event.data), "")
    if not name:
        return StageState(number, kind, "", "waiting")
    manifest = read_manifest(folder / STAGES / name)
    if manifest:
        inputs = manifest.counts["inputs"]
        return StageState(number, kind, name, "done", inputs, inputs, manifest.counts)
    progress = next((event.data for event in reversed(own) if "total" in event.data), {})
    done, total = (progress.get(key, 0) for key in ("done", "total"))
    assert isinstance(done, int) and isinstance(total, int), progress
    return StageState(number, kind, name, run, done, total)


def _last_sign(folder: Path) -> float:
    path = folder / EVENTS
    return (path if path.exists() else folder / RUN).stat().st_mtime
