"""Files of other tools into a folder of ours: records, named rejects, and a manifest that closes the ledger.

Rows stream; a wrong one is named by file, line and field, and the import goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cai.errors import CaiError, InputError
from cai.files import folder_lock, growing_files, sha256_of
from cai.manifest import NAME, write_manifest
from cai.records import Preference, Reject, content_id, digest, to_line
from cai.store.formats.layouts import Detected, adapted_rows, detect, layout_named, sort_of
from cai.store.formats.rows import Answered, BadRowError, Columns
from cai.store.formats.source import SourceRow

STAGE = "import"
VERSION = 1
RECORDS, REJECTS = "records.jsonl", "rejects.jsonl"


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import. `sorts` counts pairs, answers and labelled answers."""

    folder: Path
    layout: str
    inputs: int
    outputs: int
    rejects: dict[str, int] = field(default_factory=dict)
    sorts: dict[str, int] = field(default_factory=dict)


def read_rows(path: Path, layout: str = "") -> Iterator[Preference | Answered | Reject]:
    """One value for each row of the file: the record, or why it is none."""
    name = layout or detect(path).name
    read = layout_named(name).read
    for row in adapted_rows(path, name):
        yield converted(row, read, path)


def import_file(path: Path, out: Path, layout: str = "") -> Imported:
    """Read the file into a new folder. The manifest is written last: without it the folder does not count."""
    found = Detected(layout, 0, 0) if layout else detect(path)
    read = layout_named(found.name).read
    if (out / NAME).exists() or (out / RECORDS).exists():
        raise InputError(str(out), "holds data already", None, "name a new folder")
    inputs, reasons, sorts = 0, Counter[str](), Counter[str]()
    with folder_lock(out):
        with growing_files(out, RECORDS, REJECTS) as files:
            for row in adapted_rows(path, found.name):
                inputs += 1
                made = converted(row, read, path)
                if isinstance(made, Reject):
                    reasons[made.reason] += 1
                    files[REJECTS].write(to_line(made) + "\n")
                else:
                    sorts[sort_of(made)] += 1
                    files[RECORDS].write(to_line(made) + "\n")
        outputs = _closed(out, inputs, reasons)
        facts: dict[str, object] = {
            "source": path.name,
            "layout": found.name,
            "rejects": dict(sorted(reasons.items())),
            "sorts": dict(sorted(sorts.items())),
        }
        sources = {"file": sha256_of(path)}
        counts = {"inputs": inputs, "outputs": outputs, "rejects": reasons.total()}
        write_manifest(out, STAGE, VERSION, digest([STAGE, VERSION, found.name, sources]), sources, counts, facts)
    return Imported(out, found.name, inputs, outputs, dict(reasons), dict(sorts))


def _closed(out: Path, inputs: int, reasons: Counter[str]) -> int:
    """The number of records, counted from the file, after the ledger was found to close."""
    outputs, rejects = (_lines(out / name) for name in (RECORDS, REJECTS))
    if inputs != outputs + rejects or rejects != reasons.total():
        told = f"{inputs} rows became {outputs} records and {rejects} rejects"
        raise CaiError(f"{out}: {told}; rows were lost or doubled, which is an error in this program")
    return outputs


def _lines(path: Path) -> int:
    with open(path, "rb") as handle:
        return sum(1 for _ in handle)


def converted(
    row: SourceRow, read: Callable[[Columns, str], Preference | Answered], path: Path
) -> Preference | Answered | Reject:
    place = f"{path.name}:{row.number}"
    identity = content_id(STAGE, path.name, row.number)
    if row.problem:
        return Reject(identity, STAGE, "not a row", f"{place}: {row.problem}")
    try:
        made = read(row.value, path.name)
        # What cannot be written as JSON (a number that is none, half a character in a tool) must not stop the import.
        to_line(made).encode()
    except BadRowError as error:
        return Reject(identity, STAGE, error.reason, f"{place}: {_writable(str(error))}")
    except (ValueError, TypeError) as error:
        return Reject(identity, STAGE, "broken text", f"{place}: {_writable(str(error))}")
    return made


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
