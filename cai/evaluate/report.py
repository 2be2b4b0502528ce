"""The report of a run: `report.json` for programs, `report.html` for people, a short table for the terminal.

What it says is in `contents`, how the page looks in `page` and its templates. Equal data gives equal bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.evaluate.compare import MetricRow
from cai.evaluate.contents import Example, ReportData
from cai.evaluate.suites import metric
from cai.evaluate.verdict import headline, percent, points
from cai.files import write_atomic
from cai.records import as_dict

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One line of the result table, as text. `values` stand in the order of the models."""

    metric: str
    better: str
    values: tuple[str, ...]
    difference: str
    change: str


def write_report(folder: Path, data: ReportData) -> Path:
    """Writes both files, the page last, and returns where it is."""
    from cai.evaluate.page import render

    write_atomic(folder / "report.json", json.dumps(report_json(data), ensure_ascii=False, indent=2) + "\n")
    page = folder / "report.html"
    write_atomic(page, render(data))
    return page


def report_json(data: ReportData) -> dict[str, object]:
    """The report for programs. Its first keys are a promise (schema 1); what follows them may grow."""
    return {
        "schema": SCHEMA,
        "run": data.run,
        "constitution": {
            "id": data.constitution.id,
            "version": data.constitution.version,
            "digest": data.constitution.digest,
            "title": data.constitution.title,
        },
        "model": data.model,
        "stages": [as_dict(stage) for stage in data.stages],
        "metrics": [as_dict(row) for row in data.metrics],
        "verdict": headline(data.metrics),
        "principles": [as_dict(principle) for principle in data.constitution.principles],
        "judge": as_dict(data.judge) if data.judge else None,
        "training": [as_dict(curve) for curve in data.curves],
        "examples": [_example(example) for example in data.examples],
        "revisions": [as_dict(revision) for revision in data.revisions],
        "command": data.command,
        "digests": dict(data.digests),
    }


def result_table(data: ReportData) -> list[ResultRow]:
    """The metrics that base and tuned share, or all where nothing was compared."""
    compared = [row for row in data.metrics if row.difference is not None]
    return [_result(row, table_models(data)) for row in compared or data.metrics]


def table_models(data: ReportData) -> list[str]:
    """The columns of the result table: every model that was measured, in the order of the run."""
    return list(dict.fromkeys(name for row in data.metrics for name in row.values))


def _result(row: MetricRow, models: Sequence[str]) -> ResultRow:
    difference = ""
    if row.difference is not None and row.interval is not None:
        low, high = row.interval
        difference = f"{points(row.difference)} ({points(low)} to {points(high)})"
    return ResultRow(
        metric=metric(row.suite, row.metric).title,
        better=row.better,
        values=tuple(percent(row.values[name], 1) if name in row.values else "–" for name in models),
        difference=difference,
        change=row.change,
    )


def _example(example: Example) -> dict[str, object]:
    answers = {name: as_dict(answer) for name, answer in example.answers.items()}
    return {"prompt": example.prompt, "label": example.label, "answers": answers}
