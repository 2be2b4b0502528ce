"""Prompts from a file in any layout that `importing` reads, with the answers left off, or from plain text.

Nothing is left out here: a row that is no prompt is refused by file, line and field, since a run must ask what it was
given. Where a layout keeps its prompt is the layout's own business.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cai.errors import InputError
from cai.records import Prompt
from cai.store.formats.layouts import LAYOUTS, adapted_rows, declared_columns
from cai.store.formats.records import ask_record
from cai.store.formats.rows import BadRowError, Columns
from cai.store.formats.source import SourceRow, container_of, text_rows
from cai.store.formats.trl import ask_alone

_JSON = (".jsonl", ".json", ".ndjson")
_ROWS = 'a row is {"prompt": "…"}, {"messages": […]}, or what `cai data import` reads'
_LEAVE_OUT = "correct it, or let `cai data import` leave such rows out: its records.jsonl is a prompt file too"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt, and the row that it was read from."""

    place: str
    columns: Columns
    prompt: Prompt


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """A file's prompts in its order, each once; of a large file no more is read than the limit needs."""
    found: dict[str, Prompt] = {}
    for row in prompt_rows(path):
        found.setdefault(row.prompt.id, row.prompt)
        if len(found) == limit:
            break
    return list(found.values())


def prompt_rows(path: Path) -> Iterator[PromptRow]:
    """Every row of the file. A prompt's source is what its row says, or else the file's name."""
    for row in prompts_or_errors(path):
        if isinstance(row, InputError):
            raise row
        yield row


def prompts_or_errors(path: Path) -> Iterator[PromptRow | InputError]:
    """The same for whoever can do without a row: why one is no prompt, in its place."""
    # Only LLaMA-Factory says in a file beside the data which layout a row has; elsewhere the row tells it.
    layout = "llama-factory" if declared_columns(path) else ""
    for row in _rows(path, layout):
        place = f"{path}:{row.number}"
        if row.problem:
            yield InputError(place, row.problem, None, _ROWS)
            continue
        try:
            prompt = LAYOUTS[layout].ask(row.value, path.name) if layout else prompt_in(row.value, path.name)
        except BadRowError as error:
            remedy = _LEAVE_OUT if _fitting(row.value) else _ROWS
            yield InputError(place, f"{error.field}: {error.problem}", error.value, remedy)
            continue
        told = row.value.get("source")
        named = dataclasses.replace(prompt, source=told) if isinstance(told, str) and told else prompt
        yield PromptRow(place, row.value, named)


def prompt_in(row: Columns, source: str) -> Prompt:
    """The prompt of one row, whatever its layout."""
    if isinstance(row.get("prompt"), Mapping):
        return ask_record(row, source)
    if name := _fitting(row):
        return LAYOUTS[name].ask(row, source)
    if "prompt" not in row:
        known = ", ".join(map(str, row)) or "no columns"
        raise BadRowError("prompt", "is missing, and no other column holds a prompt", known)
    return ask_alone(row, source)


def _fitting(row: Columns) -> str:
    return next((name for name, layout in LAYOUTS.items() if layout.fits(row)), "")


def _rows(path: Path, layout: str) -> Iterator[SourceRow]:
    name = path.name.removesuffix(".gz")
    # Plain text is told by its name: a line of it may well look like the beginning of JSON.
    if name.endswith(_JSON) or container_of(path) in ("parquet", "table"):
        return adapted_rows(path, layout)
    return (SourceRow(row.number, {"prompt": row.text}, row.problem) for row in text_rows(path))
