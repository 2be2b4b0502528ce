"""Records of finished stages, read back."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from cai.errors import DamagedFile
from cai.journal import read_lines
from cai.records import from_line

Record = TypeVar("Record")


def read_records(kind: type[Record], folders: Iterable[Path]) -> list[Record]:
    """All records of these folders, in order."""
    return [record for folder in folders for record in _read(kind, folder / "records.jsonl")]


def _read(kind: type[Record], path: Path) -> list[Record]:
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            found.append(from_line(kind, line))
        except ValueError as error:
            remedy = "restore the file, or remove its folder and run again"
            raise DamagedFile(f"{path}:{number}", f"is no {kind.__name__}: {error}", None, remedy) from None
    return found
