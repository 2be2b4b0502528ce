"""`cai status` and `cai trace`: how far a run is, and where one of its records comes from. Both only read."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.screen import complain, console, mark, print_json, table

if TYPE_CHECKING:
    from rich.tree import Tree

    from cai.store.run_folder import RunState, StageState
    from cai.store.trace import Fact

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]


def status(run: RunFolder, as_json: AsJson = False) -> None:
    """How far a run is, stage by stage; it may be running in another process."""
    from cai.store.run_folder import read_run

    state = read_run(run)
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


def _show_run(state: "RunState") -> None:
    screen = console()
    head = mark(state.state)
    head.append(f"  {state.name}", style="bold")
    head.append(f"  {state.folder}", style="dim")
    if state.process:
        head.append(f"  process {state.process}", style="dim")
    screen.print(head)
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
