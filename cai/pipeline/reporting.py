"""Curves for other tools: the metrics of trainings as TensorBoard or Weights & Biases read them.

Both are optional packages, imported only where somebody asks for them. A reporter sees the events that everybody sees;
nothing is read back from what it writes, and whether there is one changes no digest.
"""

import importlib
import importlib.util
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from cai.errors import InputError
from cai.pipeline.events import Event

ReportTo = Literal["tensorboard", "wandb"]
Result = TypeVar("Result")


class Reporter(Protocol):
    """Told every event of a training; closed when it ends, however it ends."""

    def report(self, event: Event) -> None: ...

    def close(self) -> None: ...


def require_package(kind: ReportTo, place: str, name: str) -> None:
    """Refuse what cannot be reported to, before anything is loaded; `name` is what the setting is called there."""
    if importlib.util.find_spec(kind) is None:
        remedy = f"install it with: pip install 'cai[{kind}]', or leave {name} out: metrics.jsonl is always written"
        raise InputError(place, f"the package {kind} is not installed", None, remedy)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is reported about: a training that goes on has the same identity as before."""

    name: str
    identity: str
    settings: Mapping[str, object]
    part: str = ""
    """Which one it is where several report below one folder."""


def open_reporter(kind: ReportTo, folder: Path, subject: Subject) -> Reporter:
    """Reports go below the folder."""
    if kind == "tensorboard":
        return _TensorBoard(folder / "tensorboard" / subject.part)
    # Its logs may still grow when the folder's manifest is written; what is hidden is not part of a folder.
    return _Wandb(folder / ".wandb", subject)


def reported(
    events: Generator[Event, None, Result], kind: ReportTo, folder: Path, subject: Subject
) -> Generator[Event, None, Result]:
    """The same events with the same result, told to a reporter as they pass."""
    with closing(open_reporter(kind, folder, subject)) as reporter, closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                result: Result = end.value
                return result
            reporter.report(event)
            yield event


def scalars(event: Event) -> tuple[int, dict[str, float]]:
    """The update and its metrics; nothing of any other event."""
    metrics, done = event.data.get("metrics"), event.data.get("done")
    if event.kind != "metrics" or not isinstance(metrics, dict) or not isinstance(done, int):
        return 0, {}
    return done, {str(name): float(value) for name, value in metrics.items()}


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        summary: Any = importlib.import_module("tensorboard.summary")
        self._writer = summary.Writer(str(folder))

    def report(self, event: Event) -> None:
        step, told = scalars(event)
        for name, value in told.items():
            self._writer.add_scalar(f"{event.stage}/{name}", value, step)
        if told:
            # A killed training goes on behind its last checkpoint, and would not tell again what lay in a buffer.
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Whether this goes online, and to which account, is for wandb's own environment to say."""

    def __init__(self, folder: Path, subject: Subject) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        # One id for one training, so that what goes on after a stop goes on there as well.
        self._run = wandb.init(
            project="cai", name=subject.name, id=subject.identity[:16], resume="allow", dir=str(folder),
            config=dict(subject.settings),
        )  # fmt: skip

    def report(self, event: Event) -> None:
        step, told = scalars(event)
        if told:
            self._run.log({f"{event.stage}/{name}": value for name, value in told.items()}, step=step)

    def close(self) -> None:
        self._run.finish()
