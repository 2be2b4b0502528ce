"""What a pilot found, on the screen, and the question whether to go on."""

import sys
from typing import TYPE_CHECKING

from cai.cli.screen import console, counted, span, table

if TYPE_CHECKING:
    from rich.table import Table

    from cai.pipeline.pilot import Forecast, StageForecast


def show_forecast(found: "Forecast") -> None:
    screen = console()
    screen.print(f"\nPilot on {found.prompts} of {found.of} prompts. The whole run, if it goes on like that:")
    screen.print(_table(found))
    for stage in found.stages:
        for what, counts in (("left out", stage.rejects), ("noted", stage.notes)):
            if counts:
                screen.print(f"{stage.stage} {what}: {counted(counts)}", soft_wrap=True)
    if found.consistency is not None:
        screen.print(f"The judge names the same answer in both orders in {found.consistency:.1%} of its verdicts.")
    for name, cost in found.cost.items():
        screen.print(f"'{name}' will cost about {cost:.4g}.")
    if found.untimed:
        screen.print(f"Not piloted: {', '.join(found.untimed)}.", style="dim")


def wants_to_go_on() -> bool:
    """Asked of a person only: a program decides by running the command without the pilot."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        console().print("The same command without --pilot goes on; nothing of the pilot is asked again.")
        return False
    import typer

    return typer.confirm("Go on with all of it? Nothing of the pilot is asked again")


def _table(found: "Forecast") -> "Table":
    rows = table(["stage", "rows", "time", "tokens read", "written", "disk"], range(1, 6))
    for stage in found.stages:
        size = f"{stage.bytes / 1e6:,.1f} MB"
        rows.add_row(
            stage.stage, f"{stage.rows:,}", _time(stage), f"{stage.tokens_read:,}", f"{stage.tokens_written:,}", size
        )
    return rows


def _time(stage: "StageForecast") -> str:
    if stage.seconds is None:
        return "not known"
    low, high = span(stage.seconds.low), span(stage.seconds.high)
    return low if low == high else f"{low} to {high}"
