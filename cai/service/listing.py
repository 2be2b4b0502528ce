"""Runs as the service tells them: what their folders show, joined with what the queue knows.

A run that `cai run` made in the same folder is told like any other. Listing many runs is cheap, because a folder is
read again only when its events have grown.
"""

import re
import threading
from dataclasses import asdict
from pathlib import Path

from cai.errors import CaiError
from cai.pipeline.final import final_adapter
from cai.service.jobs import Job, Queue
from cai.store.run_folder import EVENTS, REPORT, RUN, RunState, lock_owner, read_run

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
Told = dict[str, object]


class Listing:
    """The runs of one folder."""

    def __init__(self, runs: Path, queue: Queue) -> None:
        self.runs = runs.resolve()
        self._queue = queue
        self._lock = threading.Lock()
        self._read: dict[str, tuple[object, RunState]] = {}

    def all(self) -> list[Told]:
        """Every run: those that wait or run first, then the one that last gave a sign of life."""
        jobs = self._queue.latest()
        names = {path.parent.name for path in self.runs.glob(f"*/{RUN}")} | jobs.keys()
        found = [(name, self.state(name), jobs.get(name)) for name in names]
        told = [self._told(name, state, job) for name, state, job in found if state or job]
        return sorted(told, key=lambda run: (is_over(run), -_number(run["updated"]), str(run["id"])))

    def one(self, run: str) -> Told | None:
        state, job = self.state(run), self._queue.find(run)
        return self._told(run, state, job) if state or job else None

    def folder(self, run: str) -> Path | None:
        """The folder of that run, whether it is there or not; None where the name can be none of a run."""
        if not RUN_ID.fullmatch(run):
            return None
        folder = (self.runs / run).resolve()
        return folder if folder == self.runs / run else None

    def state(self, run: str) -> RunState | None:
        """What the run's folder shows; None where it shows nothing, or nothing that can be read."""
        folder = self.folder(run)
        if folder is None or not (folder / RUN).is_file():
            return None
        sign = (_stamp(folder / EVENTS), _stamp(folder / RUN), _stamp(folder / REPORT), lock_owner(folder))
        with self._lock:
            known = self._read.get(run)
        if known and known[0] == sign:
            return known[1]
        try:
            state = read_run(folder)
        except CaiError:
            return None
        with self._lock:
            self._read[run] = (sign, state)
        return state

    def models(self) -> dict[str, int]:
        """The runs that ended with a model, and when."""
        found = {}
        for path in self.runs.glob(f"*/{RUN}"):
            state = self.state(path.parent.name)
            if state and state.state == "done" and final_adapter(state):
                found[path.parent.name] = int(_changed(path.parent))
        return found

    def _told(self, run: str, state: RunState | None, job: Job | None) -> Told:
        updated = max(
            _changed(self.runs / run), *((job.created, job.started or 0.0, job.finished or 0.0) if job else (0.0,))
        )
        shown, error = _shown(state, job, _changed(self.runs / run))
        stages = [asdict(stage) for stage in state.stages] if state else []
        return {
            "object": "run",
            "id": run,
            "state": shown,
            "error": error,
            "created": round(job.created, 3) if job else None,
            "started": _started(self.runs / run, job),
            "updated": round(updated, 3),
            "stages": stages,
            "report": f"/api/runs/{run}/report" if state and state.report else None,
            "stoppable": job is not None and job.state in ("queued", "running"),
            "events": f"/api/runs/{run}/events",
        }


def is_over(told: Told) -> bool:
    """Whether nothing more comes unless somebody starts the run again."""
    return told["state"] not in ("queued", "running")


def _shown(state: RunState | None, job: Job | None, folder_changed: float) -> tuple[str, str]:
    """The state and the error to tell: of queue and folder, whichever spoke last."""
    if job and job.state in ("queued", "running"):
        return job.state, ""
    if state is None:
        assert job is not None, "a run has a folder or a job"
        return job.state, job.error
    # A job ends a moment after the folder's last event; someone may have run the folder again since then.
    queue_spoke_last = job is not None and (job.finished or 0.0) >= folder_changed and state.state != "running"
    if job and queue_spoke_last and job.state != "done":
        return job.state, job.error
    return state.state, state.error


def _started(folder: Path, job: Job | None) -> float | None:
    if job and job.started:
        return round(job.started, 3)
    stamp = _stamp(folder / RUN)
    return round(stamp[0] / 1e9, 3) if stamp else None


def _changed(folder: Path) -> float:
    stamp = _stamp(folder / EVENTS) or _stamp(folder / RUN)
    return stamp[0] / 1e9 if stamp else 0.0


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _number(value: object) -> float:
    assert isinstance(value, float), value
    return value
