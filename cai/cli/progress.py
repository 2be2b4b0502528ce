"""A run's events as they come: bars with rates and time left on a terminal, plain lines anywhere else.

Both take the events and hand back the last one, so that the caller can say what came of the run.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cai.cli.screen import console, counted, rate, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cai.pipeline.events import Event

PLAIN_SECONDS = 10.0
"""Plain lines about one stage come no closer together than this."""
_TITLES = {
    "revise": "critique and revise",
    "judge": "measure the judge",
    "prefer": "judge pairs",
    "filter": "filter",
    "sft": "fine-tune on revisions",
    "dpo": "train on preferences",
    "kto": "train on single answers",
    "reward": "train a reward model",
    "ppo": "learn from rewards",
    "rloo": "learn from rewards",
    "grpo": "learn from rewards",
    "evaluate": "evaluate",
}
_SHOWN = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin", "reward": "reward", "kl": "KL"}


@dataclass
class Pace:
    """How fast a stage goes, from where it took up its work: what was done before counts as done, not as fast."""

    resumed: bool = False
    started: float = field(default_factory=time.monotonic)
    first: int | None = None
    done: int = 0
    total: int = 0

    def move(self, data: Mapping[str, object]) -> None:
        done, total = data["done"], data["total"]
        assert isinstance(done, int) and isinstance(total, int), data
        if self.first is None:
            # A stage that is taken up again tells first what is there already.
            self.first = done if self.resumed else 0
        self.done, self.total = done, total

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> str:
        return rate(self.done - (self.first or 0), self.seconds)

    @property
    def left(self) -> str:
        fresh = self.done - (self.first or 0)
        if fresh <= 0 or self.done >= self.total:
            return ""
        return f"{span((self.total - self.done) * self.seconds / fresh)} left"


def title(stage: str) -> str:
    """`01 critique and revise` for the stage `01-revise`; a training alone is called by its method."""
    number, _, kind = stage.partition("-")
    return f"{number} {_TITLES.get(kind, kind)}" if kind else number


def numbers(data: Mapping[str, object]) -> str:
    """The few numbers of a training step that say whether it goes well."""
    metrics = data.get("metrics")
    if not isinstance(metrics, dict):
        return ""
    return " ".join(f"{name} {metrics[key]:.3f}" for key, name in _SHOWN.items() if key in metrics)


def ledger(data: Mapping[str, object]) -> str:
    """What a finished stage made of its inputs."""
    counts, rejects, notes = (data.get(key) or {} for key in ("counts", "rejects", "notes"))
    assert isinstance(counts, dict) and isinstance(rejects, dict) and isinstance(notes, dict), data
    text = f"{counts.get('outputs', 0)} of {counts.get('inputs', 0)}"
    if rejects:
        text += f", rejected: {counted(rejects)}"
    return f"{text} ({counted(notes)})" if counted(notes) else text


def show_lines(events: "Iterator[Event]") -> "Event | None":
    screen, pace, said = console(), Pace(), 0.0
    last = None
    for last in events:
        data, name = last.data, title(last.stage)
        line = ""
        match last.kind:
            case "run_started":
                line = f"run {data['name']} in {data['folder']}"
            case "stage_started":
                pace, said = Pace(bool(data.get("resumed"))), time.monotonic()
                line = f"{name}: {'goes on' if data.get('resumed') else 'starts'}"
            case "stage_skipped":
                line = f"{name}: is done already, {ledger(data)}"
            case "progress" | "metrics":
                pace.move(data)
                if time.monotonic() - said >= PLAIN_SECONDS:
                    said = time.monotonic()
                    parts = [f"{pace.done} of {pace.total}", pace.rate, pace.left, numbers(data)]
                    line = f"{name}: {', '.join(part for part in parts if part)}"
            case "notice":
                line = f"{name}: {data.get('text', '')}"
            case "stage_finished":
                line = f"{name}: done in {span(pace.seconds)}, {ledger(data)}"
            case "run_finished":
                line = f"run done in {data['folder']}"
        if line:
            screen.print(line)
            screen.file.flush()
    return last


def show_bars(events: "Iterator[Event]") -> "Event | None":
    with _bars() as bars:
        task: TaskID | None = None
        pace = Pace()
        last = None
        for last in events:
            data, name = last.data, title(last.stage)
            match last.kind:
                case "run_started":
                    bars.console.print(f"Run {data['name']} in {data['folder']}", style="bold")
                case "stage_started":
                    pace = Pace(bool(data.get("resumed")))
                    task = bars.add_task(name, total=None, told="", pace="")
                case "stage_skipped":
                    bars.console.print(f"✓ {name:<26} done already · {ledger(data)}", style="dim")
                case "progress" | "metrics" if task is not None:
                    pace.move(data)
                    beside = "  ".join(part for part in (pace.rate, pace.left) if part)
                    bars.update(task, completed=pace.done, total=pace.total, pace=beside, told=numbers(data))
                case "notice":
                    bars.console.print(f"  {data.get('text', '')}", style="yellow")
                case "stage_finished" if task is not None:
                    bars.remove_task(task)
                    bars.console.print(f"✓ {name:<26} {span(pace.seconds):>10} · {ledger(data)}")
        return last


def _bars() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", style="cyan", markup=False),
        TextColumn("{task.fields[told]}", style="dim", markup=False),
        console=console(),
    )
