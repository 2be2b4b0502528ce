"""The report of a run, gathered from its finished stage folders alone.

What a report looks like lives in `evaluate.report`. Equal stage folders give an equal report.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cai.evaluate.compare import compare
from cai.evaluate.contents import (
    ConstitutionFacts,
    PrincipleRow,
    ReportData,
    StageRow,
    TrainingCurve,
)
from cai.evaluate.examples import pick_examples, pick_revisions
from cai.evaluate.judging import judge_facts
from cai.evaluate.report import write_report
from cai.evaluate.suites import Item, SuiteResult
from cai.feedback.judge import JudgeSettings, decide
from cai.feedback.styles import frames_digest_of
from cai.feedback.yields import told
from cai.journal import read_lines
from cai.pipeline.configs import BASE, EvaluateConfig, PreferConfig, reasons, style_of
from cai.pipeline.inputs import Done
from cai.pipeline.reading import read_records
from cai.pipeline.spec import Pipeline
from cai.pipeline.stage_evaluate import Measured
from cai.pipeline.training_configs import LEARNING
from cai.records import Preference, Revision, digest


@dataclass
class _Tally:
    """What one principle did, counted over all records."""

    drawn: int = 0
    changed: int = 0
    judged: int = 0
    p_sum: float = 0.0
    ties: int = 0
    contradictions: int = 0


def summarise(pipeline: Pipeline, folder: Path, done: Sequence[Done]) -> Path:
    """Write `report.json` and `report.html` of a run whose stages are all done; where the page is."""
    return write_report(folder, report_data(pipeline, done))


def report_data(pipeline: Pipeline, done: Sequence[Done]) -> ReportData:
    evaluated = next(stage for stage in reversed(done) if stage.stage.kind == "evaluate")
    measured = read_records(Measured, [evaluated.folder])
    by_suite = _by_suite(evaluated.stage.config, measured)
    revisions = read_records(Revision, [d.folder for d in done if d.stage.kind == "revise"])
    constitution = pipeline.constitution
    machine = cast(dict[str, object], evaluated.manifest.facts["machine"])
    return ReportData(
        run=pipeline.spec.name,
        constitution=ConstitutionFacts(
            constitution.id,
            constitution.version,
            constitution.behaviour_digest,
            constitution.title,
            _principles(pipeline, done, revisions),
        ),
        model={**pipeline.spec.model_dump(mode="json")["model"], "seed": pipeline.spec.seed, **machine},
        metrics=tuple(row for results in by_suite.values() for row in compare(results)),
        stages=tuple(_stage_row(d) for d in done),
        curves=tuple(_curve(d) for d in done if d.stage.kind in LEARNING),
        examples=tuple(example for results in by_suite.values() for example in pick_examples(results)),
        revisions=pick_revisions(revisions),
        judge=judge_facts(m.item for m in measured if m.model == BASE),
        command=pipeline.command,
        digests={
            "stages": digest([d.manifest.digest for d in done]),
            "constitution (behaviour)": constitution.behaviour_digest,
            **_frames(done),
            "model": evaluated.manifest.inputs["model"],
        },
    )


def _frames(done: Sequence[Done]) -> dict[str, str]:
    """Of the chat style, which evaluation always uses, and of any other words that a stage used."""
    used = {style_of(stage.stage.config) for stage in done} - {"chat"}
    found = {"frames": frames_digest_of("chat"), **{f"frames ({style})": frames_digest_of(style) for style in used}}
    if any(reasons(stage.stage.config) for stage in done):
        found["frames (reasoning)"] = frames_digest_of("chat", reasoned=True)
    return found


def _by_suite(config: object, measured: Sequence[Measured]) -> dict[str, dict[str, SuiteResult]]:
    """Suite to model to what was measured, in the order of the configuration and of the run."""
    assert isinstance(config, EvaluateConfig), config
    items: dict[str, dict[str, list[Item]]] = {suite: defaultdict(list) for suite in config.suites}
    for m in measured:
        items[m.item.suite][m.model].append(m.item)
    return {
        suite: {model: SuiteResult(suite, tuple(own)) for model, own in models.items()}
        for suite, models in items.items()
    }


def _stage_row(done: Done) -> StageRow:
    counts, facts = done.manifest.counts, done.manifest.facts
    rejects, notes = (cast(dict[str, int], facts[key]) for key in ("rejects", "notes"))
    stage, sums = done.stage, (counts["inputs"], counts["outputs"])
    sentences = (*told(cast(dict[str, int], facts.get("figures", {}))), *cast(list[str], facts.get("told", [])))
    return StageRow(stage.number, stage.kind, done.manifest.digest, *sums, rejects, notes, sentences)


def _curve(done: Done) -> TrainingCurve:
    steps = tuple(json.loads(line) for line in read_lines(done.folder / "metrics.jsonl"))
    return TrainingCurve(done.stage.number, done.stage.kind, steps)


def _principles(pipeline: Pipeline, done: Sequence[Done], revisions: Iterable[Revision]) -> tuple[PrincipleRow, ...]:
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    for revision in revisions:
        for turn in revision.rounds:
            tallies[turn.principle_id].drawn += 1
            tallies[turn.principle_id].changed += turn.changed
    for stage in done:
        if isinstance(stage.stage.config, PreferConfig):
            config = stage.stage.config
            settings = JudgeSettings(config.principles, config.tie_below, config.contradiction_beyond)
            _count_verdicts(tallies, read_records(Preference, [stage.folder]), settings)
    return tuple(
        PrincipleRow(
            id=principle.id,
            text=principle.preference or principle.revision,
            drawn=tally.drawn,
            changed=tally.changed,
            judged=tally.judged,
            mean_p=round(tally.p_sum / tally.judged, 6) if tally.judged else None,
            ties=tally.ties,
            contradictions=tally.contradictions,
        )
        for principle, tally in ((p, tallies[p.id]) for p in pipeline.constitution.principles)
    )


def _count_verdicts(tallies: dict[str, _Tally], preferences: Iterable[Preference], settings: JudgeSettings) -> None:
    """Each principle by itself: its own ties and contradictions, and how it stood to the common verdict."""
    for preference in preferences:
        for verdict in preference.verdicts:
            tally = tallies[verdict.principle_id]
            kind = decide([verdict], [1.0], settings).kind
            tally.judged += 1
            tally.p_sum += verdict.p
            tally.ties += kind == "tie"
            tally.contradictions += kind == "contradiction"
