"""Rows of a file one after the other, whatever holds them: JSON Lines, one JSON array, Parquet, CSV, gzip around each.

Nothing is held but the row in hand. What is wrong with one row is told about that row, and reading goes on; only where
the place of the next row cannot be known (an array that breaks off) is the file refused.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cai.errors import InputError
from cai.store.formats.rows import Columns

Container = Literal["lines", "array", "parquet", "table"]
MAX_ROW = 64 * 1024 * 1024
"""Bytes of one row; a longer one is no row, and must not fill the memory."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_BLOCK = 1 << 20
_BATCH = 512


@dataclass(frozen=True, slots=True)
class SourceRow:
    """`number` is the line that the row begins at, in Parquet the row itself, from 1. `problem` is why it is no row."""

    number: int
    value: Columns
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A line of plain text that is not blank, without the space around it."""

    number: int
    text: str
    problem: str = ""


def container_of(path: Path) -> Container:
    """What holds the rows, told by the file's first bytes; tables of text, which have no sign, by its name."""
    with _opened(path) as handle:
        start = handle.read(4096)
    if start[:4] == b"PAR1":
        return "parquet"
    if _separator(path):
        return "table"
    return "array" if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" else "lines"


def source_rows(path: Path) -> Iterator[SourceRow]:
    """Every row of the file, good or not, once."""
    match container_of(path):
        case "parquet":
            yield from _parquet_rows(path)
        case "array":
            yield from _array_rows(path)
        case "table":
            yield from _table_rows(path)
        case "lines":
            yield from _line_rows(path)


def text_rows(path: Path) -> Iterator[TextRow]:
    """Every line of a text file that is not blank."""
    for number, line in _lines(path):
        try:
            yield TextRow(number, line.decode().strip())
        except UnicodeDecodeError as error:
            yield TextRow(number, "", _not_text(error))


def parsed(text: str) -> object:
    """A JSON value. NaN and infinity are not JSON, though Python reads and writes them."""
    return _STRICT.decode(text)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_no_number)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise InputError(str(path), f"cannot be read ({error.strerror})", None, "name a readable file") from error
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        yield cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=handle))) if packed else handle


def _line_rows(path: Path) -> Iterator[SourceRow]:
    for number, line in _lines(path):
        yield _row(number, line)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    with _opened(path) as handle:
        number = 0
        while line := _read_line(handle, path, number + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, line


def _read_line(handle: BinaryIO, path: Path, number: int) -> bytes:
    try:
        line = handle.readline(MAX_ROW)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}:{number}", f"cannot be read on ({error})", None, "fetch the file again") from error
    if len(line) == MAX_ROW:
        raise InputError(f"{path}:{number}", f"is longer than {MAX_ROW} bytes", None, "split the file into rows")
    return line


def _row(number: int, line: bytes) -> SourceRow:
    try:
        value = parsed(line.decode())
    except UnicodeDecodeError as error:
        return SourceRow(number, {}, _not_text(error))
    except RecursionError:
        return SourceRow(number, {}, "is nested too deeply")
    except ValueError as error:
        return SourceRow(number, {}, f"is not JSON ({error})")
    return _object(number, value)


def _object(number: int, value: object) -> SourceRow:
    if not isinstance(value, dict):
        return SourceRow(number, {}, f"is not a JSON object but {type(value).__name__}")
    return SourceRow(number, value)


def _not_text(error: UnicodeDecodeError) -> str:
    return f"is not UTF-8 at byte {error.start + 1}"


def _separator(path: Path) -> str:
    return _SEPARATORS.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")


def _table_rows(path: Path) -> Iterator[SourceRow]:
    """Rows under a head that names the columns. An empty cell is nothing; a line break inside quotes ends no row."""
    csv.field_size_limit(MAX_ROW)  # the module's own is 128 KiB, and nothing else here reads tables
    with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as handle:
        rows = csv.reader(handle, delimiter=_separator(path), strict=True)
        head: list[str] = []
        number = 1
        try:
            for cells in rows:
                begins, number = number, rows.line_num + 1
                if not cells:
                    continue
                if not head:
                    head = cells
                    if twice := [name for name in head if head.count(name) > 1]:
                        raise InputError(f"{path}:{begins}", "the head names a column twice", twice[0], "rename one")
                elif len(cells) != len(head):
                    yield SourceRow(begins, {}, f"has {len(cells)} cells, and the head names {len(head)} columns")
                else:
                    yield SourceRow(begins, {name: cell or None for name, cell in zip(head, cells, strict=True)})
        except UnicodeDecodeError:
            problem, remedy = "is not UTF-8 text near here", "save the file as UTF-8"
            raise InputError(f"{path}:{number}", problem, None, remedy) from None
        except (csv.Error, OSError, EOFError) as error:
            raise InputError(f"{path}:{number}", f"cannot be read on ({error})", None, "repair the file") from error


_SPACE = re.compile(r"[\s]*")
_SEPARATION = re.compile(r"[\s,]*")
_BETWEEN = re.compile(r"\s*(,|\])\s*")


def _array_rows(path: Path) -> Iterator[SourceRow]:
    """The elements of one array, read in blocks: a file of gigabytes needs no more than its largest row."""
    with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as handle:
        text, line, at_end = "", 1, False
        at, begun = 0, False
        while True:
            step = _next_element(text, at, begun)
            if step is None and not at_end:
                line += text.count("\n", 0, at)
                block = _read_block(handle, path, line)
                at_end = not block
                text, at = text[at:] + block, 0
                if len(text) > MAX_ROW:
                    raise InputError(f"{path}:{line}", f"a row is longer than {MAX_ROW} bytes", None, "split it")
                continue
            if step is None or isinstance(step, str):
                there = _SEPARATION.match(text, at).end()  # type: ignore[union-attr]
                place = f"{path}:{line + text.count(chr(10), 0, there)}"
                problem = "the array breaks off" if step is None else f"the array cannot be read on: {step}"
                raise InputError(place, problem, None, "repair the file, or write one row a line")
            if step.end < 0:
                return
            begun = True
            row_line = line + text.count("\n", 0, step.start)
            line, at, text = line + text.count("\n", 0, step.end), 0, text[step.end :]
            yield _object(row_line, step.value)


@dataclass(frozen=True, slots=True)
class _Element:
    """One element and where it stands in the text; an end below 0 closes the array."""

    value: object
    start: int
    end: int


def _next_element(text: str, at: int, begun: bool) -> _Element | str | None:
    """The next element; None when the text ends too early to tell; a message when it cannot be one."""
    if not begun:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text):
            return None
        at += 1
        start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[start : start + 1] == "]":
            return _Element(None, start, -1)
    else:
        between = _BETWEEN.match(text, at)
        if between is None:
            return f"expected a comma, got {text[at : at + 20]!r}" if text[at:].strip() else None
        if between[1] == "]":
            return _Element(None, at, -1)
        start = between.end()
    try:
        value, end = _STRICT.raw_decode(text, start)
    except RecursionError:
        return "a row is nested too deeply"
    except ValueError as error:
        # Too little text and wrong text look alike; at the end of the file it is the latter.
        broken = isinstance(error, json.JSONDecodeError) and len(text) - error.pos > _BLOCK
        return str(error) if broken else None
    # A number at the very end may go on in the next block; an object cannot.
    return None if end == len(text) else _Element(value, start, end)


def _read_block(handle: io.TextIOWrapper, path: Path, line: int) -> str:
    try:
        return handle.read(_BLOCK)
    except UnicodeDecodeError:
        raise InputError(f"{path}:{line}", "is not UTF-8 text near here", None, "save the file as UTF-8") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}:{line}", f"cannot be read on ({error})", None, "fetch the file again") from error


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    number += 1
                    yield SourceRow(number, value)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}:{number + 1}", f"is no readable Parquet ({error})", None, "write it anew") from error
