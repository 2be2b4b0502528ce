"""A training alone as it is seen from outside: how far it is, what it measured, what went wrong, how it goes on.

Everything is read from the files of its folder, so it can be watched from another process. Nothing here writes, and
alarms are worked out from the metrics as the training itself did.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.journal import read_lines
from cai.manifest import read_manifest
from cai.pipeline.alone_end import METRICS, first_and_last
from cai.pipeline.alone_methods import METHODS
from cai.pipeline.trained import Training, read_training
from cai.store.run_folder import LoggedEvent, State, error_of, lock_owner, read_events, state_of
from cai.train.config import TrainConfig
from cai.train.monitors import Alarm, Watch
from cai.train.progress import Best, Progress


@dataclass(frozen=True, slots=True)
class TrainingState:
    method: str
    data: str
    folder: Path
    state: State
    done: int
    total: int
    """0 until the first update; a training may end before it has done all of them."""
    metrics: Mapping[str, list[float]]
    """The first and the last value of those that matter, by what people call them."""
    last: Mapping[str, float]
    """Everything that was measured at the last update."""
    alarms: tuple[Alarm, ...]
    best: Best | None
    """The update where the metric that `best` names was best; None where none is named, or measured yet."""
    best_by: str | None
    checkpoint: int | None
    """The update of the newest checkpoint."""
    command: str
    """What it was begun with, and goes on with."""
    error: str
    process: int | None
    """Who is working on it."""


def read_state(folder: Path) -> TrainingState:
    training = read_training(folder)
    events, lines = read_events(folder), _metrics(folder)
    config = _config(training)
    process, done = lock_owner(folder), read_manifest(folder) is not None
    state: State = "done" if done else state_of(events, process)
    # The end is told before the manifest is written: without that it can still be taken up again.
    state = "interrupted" if state == "done" and not done else state
    words, watch = _words(training), Watch()
    return TrainingState(
        method=training.method,
        data=training.data,
        folder=folder,
        state=state,
        done=int(lines[-1]["step"]) if lines else 0,
        total=total if isinstance(total := _latest(events, "metrics", "total"), int) else 0,
        metrics={words[name]: both for name, both in first_and_last(lines, words).items()},
        last=lines[-1] if lines else {},
        alarms=tuple(alarm for line in lines for alarm in watch.see(line)),
        best=Progress(config, lines).best,
        best_by=config.best,
        checkpoint=_newest_checkpoint(folder),
        command=str(_latest(events, "run_started", "command") or ""),
        error=error_of(events) if state == "failed" else "",
        process=process,
    )


def _metrics(folder: Path) -> list[dict[str, float]]:
    path = folder / METRICS
    return [json.loads(line) for line in read_lines(path)] if path.exists() else []


def _config(training: Training) -> TrainConfig:
    """The settings that it was begun with, which are part of what it is; those that came later are as usual."""
    kind = METHODS[training.method].config
    return kind.model_validate({name: value for name, value in training.identity.items() if name in kind.model_fields})


def _words(training: Training) -> dict[str, str]:
    names = [name.removeprefix("reward ") for name in training.identity if name.startswith("reward ")]
    parts = {f"rewards/{name}": f"reward {name}" for name in names} if len(names) > 1 else {}
    return {"loss": "loss", **METHODS[training.method].shown, **parts}


def _newest_checkpoint(folder: Path) -> int | None:
    """Of those that were finished; whether it is sound is looked at by who goes on from it."""
    paths = folder.glob("checkpoints/*/manifest.json")
    return max((int(path.parent.name) for path in paths if path.parent.name.isdigit()), default=None)


def _latest(events: Sequence[LoggedEvent], kind: str, name: str) -> object:
    return next((event.data[name] for event in reversed(events) if event.kind == kind and name in event.data), None)
