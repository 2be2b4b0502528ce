"""Curves for other tools: the metrics of trainings as TensorBoard or Weights & Biases read them.

Both are optional packages, imported only where somebody asks for them. A reporter sees the events that everybody sees;
nothing is read back from what it writes.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from cai.errors import InputError
from cai.pipeline.events import Event

ReportTo = Literal["tensorboard", "wandb"]


class Reporter(Protocol):
    """Told every event of a training; closed when it ends, however it ends."""

    def report(self, event: Event) -> None: ...

    def close(self) -> None: ...


def require_package(kind: ReportTo) -> None:
    """Refuse what cannot be reported to, before anything is loaded."""
    if importlib.util.find_spec(kind) is None:
        remedy = (
            f"install it with: pip install 'cai[{kind}]', or leave --report-to out: metrics.jsonl is always written"
        )
        raise InputError(f"--report-to {kind}", f"the package {kind} is not installed", None, remedy)


def open_reporter(kind: ReportTo, folder: Path, name: str, settings: Mapping[str, object]) -> Reporter:
    """Reports go below the folder; `settings` are shown beside the curves where the tool has a place for them."""
    return _TensorBoard(folder / "tensorboard") if kind == "tensorboard" else _Wandb(folder, name, settings)


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

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Whether this goes online, and to which account, is for wandb's own environment to say."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, object]) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(project="cai", name=name, dir=str(folder), config=dict(settings), resume="allow")

    def report(self, event: Event) -> None:
        step, told = scalars(event)
        if told:
            self._run.log({f"{event.stage}/{name}": value for name, value in told.items()}, step=step)

    def close(self) -> None:
        self._run.finish(quiet=True)
