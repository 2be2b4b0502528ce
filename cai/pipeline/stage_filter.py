"""filter: earlier preferences or revisions without what data is better without, each row left out with its reason.

The filters live in `feedback.filters`. Some of them must see all rows before they can tell, so there are no chunks: an
unfinished filter begins again. It asks no model, and holds no more than the filters remember of the rows.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cai.errors import InputError, Interrupted
from cai.feedback.filters.looking import Row, asked_in
from cai.feedback.filters.sifting import Sifter, SiftReport
from cai.files import growing_files
from cai.manifest import Manifest, read_manifest
from cai.pipeline.chunks import balanced
from cai.pipeline.configs import FilterConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, Finished, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.reading import each_record
from cai.records import Preference, Reject, Revision, to_line
from cai.store.formats.importing import RECORDS, REJECTS

TOLD_EVERY = 500
"""Rows between two looks at the wish to stop."""


def filter_stage(config: FilterConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    folders = inputs.preferences if config.of == "preferences" else inputs.revisions

    def rows() -> Iterator[Row]:
        if config.of == "preferences":
            yield from each_record(Preference, folders)
        else:
            yield from each_record(Revision, folders)

    made_by = [manifest for each in folders if (manifest := read_manifest(each))]
    total = sum(manifest.counts["outputs"] for manifest in made_by)
    sifter = Sifter(config, [asked_in(prompt) for prompt in inputs.prompts])
    yield from _looked(inputs.name, sifter, rows, total, desk)
    report = _written(sifter, rows(), folder)
    if not report.outputs:
        raise _nothing_left(config, folder, report)
    for text in _told(report):
        yield Event("notice", inputs.name, {"text": text})
    notes = {"bursts": len(report.bursts)} if report.bursts else {}
    facts = {"bursts": [asdict(burst) for burst in report.bursts], "warnings": report.warnings, **_known(made_by)}
    return balanced(inputs.name, folder, Finished(report.inputs, report.outputs, report.rejects, notes, facts))


def _looked(
    name: str, sifter: Sifter, rows: Callable[[], Iterator[Row]], total: int, desk: Desk
) -> Generator[Event, None, None]:
    """The reading that takes the time: nearly all filters look at it."""
    for seen in sifter.look(rows):
        if seen % TOLD_EVERY == 0 or seen == total:
            if desk.stop():
                raise Interrupted(f"{name}: stopped after {seen} of {total}; the same command begins it again")
            yield Event("progress", name, {"done": seen, "total": total, "rejects": sifter.found})


def _written(sifter: Sifter, rows: Iterator[Row], folder: Path) -> SiftReport:
    """Both streams as files, whole or not at all; the same bytes whenever this is done again."""
    with growing_files(folder, RECORDS, REJECTS) as files:
        for made in sifter.sift(rows):
            files[REJECTS if isinstance(made, Reject) else RECORDS].write(to_line(made) + "\n")
    assert sifter.report is not None, "the last row was taken"
    return sifter.report


def _nothing_left(config: FilterConfig, folder: Path, report: SiftReport) -> InputError:
    """Told here, where the reasons are known, and not by the training that would find nothing."""
    if not report.inputs:
        problem = f"there are no {config.of} to filter, since the stages before made none"
        return InputError(str(folder), problem, None, "look at what they rejected")
    reasons = ", ".join(f"{reason} ({count})" for reason, count in report.rejects.items())
    problem = f"the filters leave none of {report.inputs} {config.of}: {reasons}"
    remedy = "rejects.jsonl in there says why of each; loosen or switch off what takes too much"
    return InputError(str(folder), problem, None, remedy)


def _told(report: SiftReport) -> Iterator[str]:
    for burst in report.bursts:
        yield f"{burst.phrase!r} stands in {burst.rows} of {burst.of} rows, and nothing explains it"
    yield from report.warnings


def _known(made_by: Sequence[Manifest]) -> Mapping[str, object]:
    """What the stages before know of constitution and models: whoever reads the filtered records needs it too."""
    models: dict[str, object] = {}
    known: dict[str, object] = {"models": models}
    for manifest in made_by:
        named = manifest.facts.get("models")
        models.update(named if isinstance(named, dict) else {})
        if "constitution" in manifest.facts:
            known.setdefault("constitution", manifest.facts["constitution"])
    return known
