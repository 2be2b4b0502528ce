"""Filtered data as a folder: records, named rejects and a manifest that tells what each filter took out.

The filters themselves know nothing of files.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from cai.errors import InputError
from cai.feedback.filters.looking import Row, asked_in
from cai.feedback.filters.settings import FilterSettings
from cai.feedback.filters.sifting import STAGE, SiftReport, sift
from cai.files import folder_lock, growing_files
from cai.manifest import NAME, write_manifest
from cai.records import Reject, digest, to_line
from cai.store.dataset import DataSet
from cai.store.formats.importing import RECORDS, REJECTS

VERSION = 1


def filter_into(data: DataSet, out: Path, settings: FilterSettings, test: DataSet | None = None) -> SiftReport:
    """Filter the data into a new folder. Rows that could not be read are among its inputs and its rejects."""
    if (out / NAME).exists() or (out / RECORDS).exists():
        raise InputError(str(out), "holds data already", None, "name a new folder")
    test_texts = [asked_in(row.prompt) for row in only_rows(test.rows())] if test else []
    sifter = sift(lambda: only_rows(data.rows()), settings, test_texts)
    unread: dict[str, int] = {}
    with folder_lock(out):
        with growing_files(out, RECORDS, REJECTS) as files:

            def readable() -> Iterator[Row]:
                for row in data.rows():
                    if isinstance(row, Reject):
                        unread[row.reason] = unread.get(row.reason, 0) + 1
                        files[REJECTS].write(to_line(row) + "\n")
                    else:
                        yield row

            for made in sifter.sift(readable()):
                files[REJECTS if isinstance(made, Reject) else RECORDS].write(to_line(made) + "\n")
        report = _with_unread(sifter.report, unread)
        _finish(data, out, settings, report)
    return report


def only_rows(rows: Iterator[Row | Reject]) -> Iterator[Row]:
    return (row for row in rows if not isinstance(row, Reject))


def _with_unread(report: SiftReport | None, unread: dict[str, int]) -> SiftReport:
    assert report is not None, "the last row was not taken"
    rejects = dict(sorted((report.rejects | unread).items()))
    return dataclasses.replace(report, inputs=report.inputs + sum(unread.values()), rejects=rejects)


def _finish(data: DataSet, out: Path, settings: FilterSettings, report: SiftReport) -> None:
    counts = {"inputs": report.inputs, "outputs": report.outputs, "rejects": sum(report.rejects.values())}
    assert counts["inputs"] == counts["outputs"] + counts["rejects"], counts
    plain = settings.model_dump(mode="json")
    facts: dict[str, object] = {
        "config": plain,
        "rejects": report.rejects,
        "bursts": [dataclasses.asdict(burst) for burst in report.bursts],
        "warnings": report.warnings,
        "models": dict(data.models),
    }
    if data.constitution:
        facts["constitution"] = dict(data.constitution)
    write_manifest(
        out, STAGE, VERSION, digest([STAGE, VERSION, plain, dict(data.sources)]), dict(data.sources), counts, facts
    )
