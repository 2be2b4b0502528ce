"""`cai status` and `cai trace`: how far a run or a training is, and where a record comes from. Both only read."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.screen import complain, console, mark, print_json, table
from cai.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from cai.pipeline.trained_state import TrainingState
    from cai.store.run_folder import RunState, StageState
    from cai.store.trace import Fact

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.", show_default=False)
]
Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="Of a run or a training, such as runs/quickstart.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]


def status(folder: Folder, as_json: AsJson = False) -> None:
    """How far a run or a training is; it may be running in another process."""
    from cai.pipeline.trained import TRAINING, is_trained
    from cai.pipeline.trained_state import read_state
    from cai.store.run_folder import RUN, read_run

    if is_trained(folder):
        training = read_state(folder)
        if as_json:
            print_json({**dataclasses.asdict(training), "folder": str(folder)})
        else:
            _show_training(training)
        return
    if not (folder / RUN).exists():
        problem = f"is neither a run nor a training: it has no {RUN} and no {TRAINING}"
        remedy = "name a folder that `cai run` or `cai train` made, such as runs/quickstart"
        raise InputError(str(folder), problem if folder.exists() else "there is no such folder", None, remedy)
    state = read_run(folder)
    if as_json:
        print_json(run_as_json(state))
    else:
        _show_run(state)


def trace(
    run: RunFolder,
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its beginning.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Follow a record back to its prompt, its principles, the models that made it, and the seed."""
    from cai.store.trace import trace as find

    fact = find(run, record)
    if as_json:
        print_json(dataclasses.asdict(fact))
    else:
        console().print(_tree(fact))


def run_as_json(state: "RunState") -> dict[str, object]:
    plain = dataclasses.asdict(state)
    return {**plain, "folder": str(state.folder), "report": str(state.report) if state.report else None}


def _show_training(state: "TrainingState") -> None:
    from cai.store.run_folder import ADAPTER

    screen = console()
    screen.print(_head(state, f"{state.method} on {state.data}"))
    screen.print(f"{state.done} of {state.total} updates" if state.total else "no update yet")
    if state.metrics:
        shown = table(["", "first", "last"], [1, 2])
        for name, both in state.metrics.items():
            shown.add_row(name, *(f"{value:.4g}" for value in both))
        screen.print(shown)
    for alarm in state.alarms:
        screen.print(f"Alarm {alarm.kind} at update {alarm.step}: {alarm.evidence}", style="yellow", soft_wrap=True)
        screen.print(f"  {alarm.advice}", soft_wrap=True)
    if state.best:
        screen.print(f"Best: update {state.best.number}, {state.best_by} {state.best.value:.4g}")
    if state.checkpoint is not None:
        screen.print(f"Last checkpoint: update {state.checkpoint}")
    if state.error:
        complain(f"failed: {state.error}")
    if state.state == "done":
        screen.print(f"Adapter: {state.folder / ADAPTER}", soft_wrap=True)
    elif state.process is None:
        screen.print(f"Goes on with: {state.command or 'the command that began it'}", soft_wrap=True)


def _head(state: "RunState | TrainingState", name: str) -> "Text":
    head = mark(state.state)
    head.append(f"  {name}", style="bold")
    head.append(f"  {state.folder}", style="dim")
    if state.process:
        head.append(f"  process {state.process}", style="dim")
    return head


def _show_run(state: "RunState") -> None:
    screen = console()
    screen.print(_head(state, state.name))
    rows = table(["", "stage", "state", "done", "outputs", "rejects"], numbers=(3, 4, 5))
    for stage in state.stages:
        outputs, rejects = (str(stage.counts.get(key, "")) for key in ("outputs", "rejects"))
        rows.add_row(f"{stage.number:02d}", stage.kind, mark(stage.state), _done(stage), outputs, rejects)
    screen.print(rows)
    if state.error:
        complain(f"failed: {state.error}")
    if state.report:
        screen.print(f"Report: {state.report}", soft_wrap=True)


def _done(stage: "StageState") -> str:
    return f"{stage.done} of {stage.total}" if stage.total else ""


def _tree(fact: "Fact", above: "Tree | None" = None) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    label = Text.assemble((fact.label, "bold cyan"), "  ", fact.value)
    node = above.add(label) if above else Tree(label, guide_style="dim")
    for child in fact.children:
        _tree(child, node)
    return node
