"""How `cai data` tells its results to people. Text of rows is escaped: it may hold what steers a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cai.cli.screen import console, counted, spelled_out, table

if TYPE_CHECKING:
    from cai.feedback.filters.sifting import SiftReport
    from cai.store.data_check import Stumble
    from cai.store.data_stats import DataStats
    from cai.store.dataset import DataSet
    from cai.store.formats.exporting import Exported
    from cai.store.formats.importing import Imported

_SHOWN = 1_500


def say_import(done: "Imported") -> None:
    screen = console()
    screen.print(f"read as {done.layout}: {done.inputs} rows, {counted(done.sorts) or 'none kept'}")
    _rejects(done.rejects, done.folder / "rejects.jsonl")
    screen.print(str(done.folder))


def say_export(done: "Exported") -> None:
    screen = console()
    for split in done.splits:
        screen.print(f"{done.folder / split.file}  {split.rows} rows")
    _rejects(done.rejects, done.folder / "rejects.jsonl")


def say_filter(report: "SiftReport", folder: Path) -> None:
    screen = console()
    screen.print(f"{report.inputs} rows, {report.outputs} stay")
    _rejects(report.rejects, folder / "rejects.jsonl")
    for burst in report.bursts:
        screen.print(f"  burst in {burst.rows} of {burst.of}: {escaped(burst.phrase)}")
    for warning in report.warnings:
        screen.print(f"warning: {warning}", style="yellow")
    screen.print(str(folder))


def say_stumbles(stumbles: "Sequence[Stumble]") -> None:
    screen = console()
    if not stumbles:
        screen.print("nothing to stumble over")
        return
    made = table(["What", "Rows", "First", "Advice"], numbers=[1])
    for stumble in stumbles:
        made.add_row(stumble.what, str(stumble.rows), escaped("\n".join(stumble.examples[:2])), stumble.advice)
    screen.print(made)


def say_stats(data: "DataSet", stats: "DataStats") -> None:
    screen = console()
    screen.print(f"{stats.rows} rows as {data.layout}: {counted(stats.kinds)}; {len(stats.prompts)} prompts")
    if stats.rejects:
        screen.print(f"not readable: {counted(stats.rejects)}", style="yellow")
    made = table(["Characters", "Mean", "Median", "95 %", "Longest"], numbers=[1, 2, 3, 4])
    for name, spread in stats.lengths.items():
        made.add_row(name, *(str(value) for value in spread.plain.values()))
    screen.print(made)
    if stats.chosen_longer is not None:
        screen.print(f"chosen is longer in {stats.chosen_longer:.1%} of pairs")
        if stats.without_verdicts:
            screen.print(f"{stats.without_verdicts} pairs have a plain label and no probability")
    for title, found in (("Principles", stats.principles), ("Models", stats.models), ("Sources", stats.sources)):
        if found:
            listed = table([title, "Rows"], numbers=[1])
            for name, count in found.most_common(10):
                listed.add_row(escaped(name), str(count))
            screen.print(listed)


def say_sample(rows: "Iterable[object]") -> None:
    from cai.records import Preference
    from cai.store.formats.rows import Answered

    screen = console()
    for row in rows:
        assert isinstance(row, Preference | Answered), row
        screen.print(row.id, style="bold")
        for message in row.prompt.messages:
            screen.print(f"{message.role}: ", style="dim", end="")
            screen.print(escaped(message.content))
        if isinstance(row, Preference):
            _field(f"chosen, {row.p_chosen:.2f}, {row.kind}", row.chosen, "green")
            _field("rejected", row.rejected, "red")
        else:
            wanted = {None: "answer", True: "answer, wanted", False: "answer, not wanted"}[row.label]
            _field(wanted, row.completion, "green")
        screen.print()


def escaped(text: str) -> str:
    """The text with control and direction characters spelled out, and cut where it is very long."""
    return spelled_out(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)")


def _field(name: str, text: str, style: str) -> None:
    console().print(f"{name}: ", style=style, end="")
    console().print(escaped(text))


def _rejects(reasons: Mapping[str, int], file: Path) -> None:
    if reasons:
        console().print(f"left out: {counted(reasons)}; why each stands in {file}", style="yellow")
