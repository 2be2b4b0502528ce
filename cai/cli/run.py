"""`cai run`: a pipeline from start to end, with its progress on the screen.

What the progress looks like lives in `progress`, what a run does in `cai.pipeline`.
"""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.screen import complain, console, print_json, table

if TYPE_CHECKING:
    from rich.table import Table

    from cai.pipeline.events import Event
    from cai.pipeline.spec import Pipeline


def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE", help="The pipeline file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder; runs/ and the pipeline's name, if not said.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Replace one value of the file. May be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line.")] = False,
    no_memory_check: Annotated[
        bool, typer.Option("--no-memory-check", help="Start even where the estimate says that it will not fit.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take this many training prompts only.", show_default=False)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="What each remote model may cost at most.", show_default=False)
    ] = None,
    pilot: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="First N prompts alone; then say what all will take.", show_default=False
        ),
    ] = None,
) -> None:
    """Run a pipeline, or go on with one that was stopped.

    What is done is skipped, what is half done is resumed, and nothing is overwritten.

    Ctrl-C stops after the step in hand, and the same command goes on from there.
    """
    from cai.pipeline.runner import run_folder, run_pipeline
    from cai.pipeline.spec import load_pipeline

    changes = [*(overrides or []), *([f"prompts.train.limit={limit}"] if limit else [])]
    loaded = load_pipeline(pipeline, changes)
    if max_cost is not None:
        capped = [f"models.{name}.limits.cost={max_cost:g}" for name in loaded.remotes]
        loaded = load_pipeline(pipeline, [*changes, *capped])
    with stop_on_signals() as stop:
        run_of = partial(run_pipeline, out=out, stop=stop, check_memory=not no_memory_check)
        if pilot is None or _piloted(loaded, pilot, run_folder(loaded, out), run_of, as_json):
            _show(run_of(loaded), as_json)


def _piloted(
    pipeline: "Pipeline", prompts: int, folder: Path, run_of: "Callable[[Pipeline], Iterator[Event]]", as_json: bool
) -> bool:
    """Runs the pilot, tells what all of it will take, and whether to go on."""
    from cai.cli.pilot import show_forecast, wants_to_go_on
    from cai.pipeline.pilot import Watch, forecast, pilot_of
    from cai.records import as_dict

    shorter, watch = pilot_of(pipeline, prompts), Watch()
    folders: list[str] = []

    def noted() -> "Iterator[Event]":
        for event in watch.over(run_of(shorter)):
            if event.kind in ("stage_finished", "stage_skipped"):
                folders.append(str(event.data["folder"]))
            yield event

    _show(noted(), as_json)
    found = forecast(pipeline, shorter, folder, watch, folders)
    if as_json:
        print_json({"kind": "forecast", "stage": "", "data": as_dict(found)})
        return False
    show_forecast(found)
    return wants_to_go_on()


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM as a wish that is asked for; a second one ends the process where it stands."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        complain("stopping after this step; once more stops at once")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _show(events: "Iterator[Event]", as_json: bool) -> None:
    from cai.cli.progress import show_bars, show_lines

    if as_json:
        for event in events:
            print_json(dataclasses.asdict(event))
        return
    last = show_bars(events) if sys.stdout.isatty() else show_lines(events)
    report = last.data.get("report") if last else None
    if report:
        _show_result(Path(str(report)))


def _show_result(page: Path) -> None:
    """The table of what was gained and lost, and where the rest of it stands."""
    report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    screen = console()
    screen.print()
    screen.print(report["verdict"], style="bold")
    screen.print(result_table(report))
    screen.print(f"Report: {page}", soft_wrap=True)


def result_table(report: dict[str, object]) -> "Table":
    """The metrics of a `report.json` as a table, each model a column."""
    from rich.text import Text

    from cai.evaluate.compare import MetricRow
    from cai.evaluate.contents import ConstitutionFacts, ReportData
    from cai.evaluate.report import result_table as result_rows
    from cai.evaluate.report import table_models
    from cai.records import from_dict

    metrics = report["metrics"]
    assert isinstance(metrics, list), metrics
    rows = tuple(from_dict(MetricRow, metric) for metric in metrics)
    data = ReportData(str(report["run"]), ConstitutionFacts("", "", "", "", ()), {}, rows)
    models = table_models(data)
    made = table(["", *models, "difference (95 %)", ""], range(1, len(models) + 2))
    made.caption = "↑ higher is better, ↓ lower is better; differences in percentage points"
    made.caption_justify = "left"
    arrows, styles = {"higher": "↑", "lower": "↓"}, {"better": "green", "worse": "red", "same": "dim"}
    for row in result_rows(data):
        change = Text(row.change if row.difference else "", style=styles[row.change])
        made.add_row(f"{arrows[row.better]} {row.metric}", *row.values, row.difference, change)
    return made
