"""Records of finished stages, read back."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from cai.errors import DamagedFile
from cai.journal import read_lines
from cai.records import from_line

Record = TypeVar("Record")


def read_records(kind: type[Record], folders: Iterable[Path]) -> list[Record]:
    """All records of these folders, in order."""
    return list(each_record(kind, folders))


def each_record(kind: type[Record], folders: Iterable[Path]) -> Iterator[Record]:
    """The same, one by one, for stages that hold no more than that."""
    for folder in folders:
        path = folder / "records.jsonl"
        for number, line in enumerate(read_lines(path), 1):
            try:
                yield from_line(kind, line)
            except ValueError as error:
                remedy = "restore the file, or remove its folder and run again"
                raise DamagedFile(f"{path}:{number}", f"is no {kind.__name__}: {error}", None, remedy) from None
