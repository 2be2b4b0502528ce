"""The report as one self-contained page: what stands where, in which words. The look lives in `templates`.

Model text reaches the page only through the template's escaping; the one markup that is passed on as it is, is the SVG
of `charts`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cai.evaluate.charts import Mark, Series, dot_strip, line_chart
from cai.evaluate.compare import BASE, TUNED, MetricRow
from cai.evaluate.contents import Example, ReportData, RevisionExample, TrainingCurve
from cai.evaluate.differences import Piece, after_side, before_side, word_differences
from cai.evaluate.suites import metric
from cai.evaluate.verdict import headline, percent, points

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
MODEL_NAMES = {BASE: "Base", "sft": "Fine-tuned", TUNED: "Aligned"}
STAGE_NAMES = {
    "revise": "Critique and revise",
    "sft": "Fine-tune on revisions",
    "judge": "Measure the judge",
    "prefer": "Judge pairs",
    "filter": "Filter",
    "dpo": "Train on preferences",
    "kto": "Train on single answers",
    "reward": "Train a reward model",
    "ppo": "Learn from rewards",
    "rloo": "Learn from rewards",
    "grpo": "Learn from rewards",
    "evaluate": "Evaluate",
}
_CHANGES = {"better": "better", "worse": "worse", "same": "no clear change"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of a training stage: which logged metrics it draws, and how."""

    title: str
    lines: Mapping[str, str]
    """Logged metric to its name in the legend."""
    as_percent: bool = False
    level: float | None = None


PANELS = (
    Panel("Loss", {"loss": "loss"}),
    Panel("Chosen above rejected", {"rewards/accuracies": "accuracy"}, as_percent=True, level=0.5),
    Panel("Reward margin", {"rewards/margins": "margin"}, level=0.0),
    Panel("Log-probability", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    Panel("Tokens predicted right", {"token_accuracy": "accuracy"}, as_percent=True),
)


@dataclass(frozen=True, slots=True)
class LegendView:
    style: str
    name: str
    course: str
    """The first and the last value."""


@dataclass(frozen=True, slots=True)
class ChartView:
    stage: str
    title: str
    lines: tuple[LegendView, ...]
    svg: str


@dataclass(frozen=True, slots=True)
class RowView:
    title: str
    meaning: str
    better: str
    change: str
    change_words: str
    cells: tuple[tuple[str, str, str], ...]
    """Class, heading and text of each model's value."""
    difference: str
    interval: str
    n: int
    strip: str


@dataclass(frozen=True, slots=True)
class SideView:
    """One text of several that stand beside each other."""

    style: str
    name: str
    words: str
    good: bool | None
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class PairView:
    asked: str
    kind: str
    sides: tuple[SideView, ...]
    below: tuple[SideView, ...] = ()


def environment() -> "jinja2.Environment":
    """The templates, escaping whatever reaches them."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"percent": percent, "count": _count, "fact": _fact}
    return found


def render(data: ReportData) -> str:
    """The page's whole text."""
    models = _models(data.metrics)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            headline=headline(data.metrics),
            models=[(_style(name), model_name(name)) for name in models],
            rows=[_row(row, models) for row in _shown(data)],
            charts=[chart for curve in data.curves for chart in _charts(curve)],
            examples=[_example(example) for example in data.examples],
            revisions=[_revision(revision) for revision in data.revisions],
            stage_names=STAGE_NAMES,
            judge_strip=_judge_strip(data),
            asked=max((row.n for row in data.metrics), default=0),
        )
    )


def model_name(name: str) -> str:
    return MODEL_NAMES.get(name, name)


def _models(rows: Iterable[MetricRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _shown(data: ReportData) -> list[MetricRow]:
    """What only the judge has is told in the judge's own section."""
    return [row for row in data.metrics if data.judge is None or row.metric != "judge_accuracy"]


def _row(row: MetricRow, models: Sequence[str]) -> RowView:
    about = metric(row.suite, row.metric)
    marks = [Mark(_style(name), share, *row.intervals[name]) for name, share in row.values.items()]
    told = ", ".join(f"{model_name(name)} {percent(share, 1)}" for name, share in row.values.items())
    cells = [(name, percent(row.values[name], 1) if name in row.values else "–") for name in models]
    low, high = row.interval or (0.0, 0.0)
    return RowView(
        title=about.title,
        meaning=about.meaning,
        better=row.better,
        change=row.change,
        change_words=_CHANGES[row.change] if row.difference is not None else "",
        cells=tuple((_style(name), model_name(name), text) for name, text in cells),
        difference=points(row.difference) if row.difference is not None else "–",
        interval=f"{points(low)} to {points(high)}" if row.interval else "",
        n=row.n,
        strip=dot_strip(marks, f"{about.title}: {told}"),
    )


def _charts(curve: TrainingCurve) -> list[ChartView]:
    """A chart for every panel of which the stage logged something."""
    found = [(panel, _logged(panel, curve)) for panel in PANELS]
    return [_chart(panel, curve, lines) for panel, lines in found if lines]


def _logged(panel: Panel, curve: TrainingCurve) -> list[Series]:
    lines = []
    for (key, name), style in zip(panel.lines.items(), ("first", "second"), strict=False):
        points = [(step["step"], step[key]) for step in curve.steps if key in step]
        if points:
            lines.append(Series(name, style, points))
    return lines


def _chart(panel: Panel, curve: TrainingCurve, lines: Sequence[Series]) -> ChartView:
    legend = tuple(LegendView(line.style, line.name, _course(line, panel.as_percent)) for line in lines)
    told = ", ".join(f"{line.name} {line.course}" for line in legend)
    label = f"{panel.title} over {len(curve.steps)} steps: {told}"
    stage = f"Stage {curve.number}: {STAGE_NAMES.get(curve.kind, curve.kind)}"
    return ChartView(stage, panel.title, legend, line_chart(lines, label, panel.as_percent, panel.level))


def _course(line: Series, as_percent: bool) -> str:
    first, last = line.points[0][1], line.points[-1][1]
    if as_percent:
        return f"{percent(first)} → {percent(last)}"
    digits = 2 if max(abs(first), abs(last)) < 10 else 1
    return f"{first:.{digits}f} → {last:.{digits}f}".replace("-", "−")


def _example(example: Example) -> PairView:
    """Base and aligned answer beside each other with their differences; what other models said stands below."""
    answers = example.answers
    pieces: dict[str, tuple[Piece, ...]] = {name: (Piece("same", answer.text),) for name, answer in answers.items()}
    if BASE in answers and TUNED in answers:
        found = word_differences(answers[BASE].text, answers[TUNED].text)
        pieces |= {BASE: tuple(before_side(found)), TUNED: tuple(after_side(found))}
    sides = {
        name: SideView(_style(name), model_name(name), answer.words, answer.good, pieces[name])
        for name, answer in answers.items()
    }
    beside = tuple(sides[name] for name in (BASE, TUNED) if name in sides)
    below = tuple(_below(side, example) for name, side in sides.items() if side not in beside)
    return PairView(example.prompt, f"{example.label} request", beside, below)


def _below(side: SideView, example: Example) -> SideView:
    """A model between base and aligned; the same words are not shown twice."""
    said = "".join(piece.text for piece in side.pieces)
    for name in (TUNED, BASE):
        if name in example.answers and example.answers[name].text == said:
            return replace(side, words="", pieces=(Piece("same", f"gave the same answer as {model_name(name)}."),))
    return side


def _revision(revision: RevisionExample) -> PairView:
    found = word_differences(revision.initial, revision.revision)
    sides = (
        SideView("base", "First answer", "", None, tuple(before_side(found))),
        SideView("critique", "Critique", "", None, (Piece("same", revision.critique),)),
        SideView("tuned", "Revision", "", None, tuple(after_side(found))),
    )
    return PairView(revision.prompt, f"principle {revision.principle_id}", sides)


def _judge_strip(data: ReportData) -> str | None:
    judge = data.judge
    if judge is None:
        return None
    marks = [Mark("tuned", judge.accuracy, judge.interval.low, judge.interval.high)]
    marks.append(Mark("base", judge.longer_wins, judge.longer_wins, judge.longer_wins))
    told = f"judge right {percent(judge.accuracy, 1)}, the longer answer {percent(judge.longer_wins, 1)}"
    return dot_strip(marks, told)


def _style(name: str) -> str:
    return name if name in (BASE, TUNED) else "middle"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _fact(value: object) -> str:
    """A fact on one line: a mapping as names with values; nothing for what is not set."""
    match value:
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name} {told}" for name, part in value.items() if (told := _fact(part)))
        case list() | tuple():
            return ", ".join(map(_fact, value))
        case _:
            return "" if value is None else json.dumps(value)
