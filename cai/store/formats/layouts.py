"""The layouts by name, and telling which one a file has from its first rows."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cai.errors import InputError
from cai.records import Preference, Prompt
from cai.store.formats import hh, labelled, llama_factory, openai, records, trl
from cai.store.formats.rows import Answered, Columns, Sort
from cai.store.formats.source import SourceRow, source_rows

_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """`fits` looks at a row's keys; `read` gives the row or raises `BadRowError`; `ask` gives its prompt alone."""

    title: str
    fits: Callable[[Columns], bool]
    read: Callable[[Columns, str], Preference | Answered]
    ask: Callable[[Columns, str], Prompt]


LAYOUTS: dict[str, Layout] = {
    "jsonl": Layout("records of this project", records.is_record, records.read_record, records.ask_record),
    "hh": Layout("hh-rlhf transcripts", hh.is_hh, hh.read_hh, hh.ask_hh),
    "openai": Layout("OpenAI fine-tuning", openai.is_openai, openai.read_openai, openai.ask_openai),
    "llama-factory": Layout(
        "LLaMA-Factory",
        llama_factory.is_llama_factory,
        llama_factory.read_llama_factory,
        llama_factory.ask_llama_factory,
    ),
    "llmbar": Layout("LLMBar", labelled.is_llmbar, labelled.read_llmbar, labelled.ask_llmbar),
    "hhh": Layout("the HHH evaluations", labelled.is_hhh, labelled.read_hhh, labelled.ask_hhh),
    "trl": Layout("TRL and datasets", trl.is_trl, trl.read_trl, trl.ask_trl),
}
"""In the order in which they are tried: the more particular ones first."""

ALIASES = {"parquet": "trl", "auto": ""}
NAMES = (*LAYOUTS, "parquet")


@dataclass(frozen=True, slots=True)
class Detected:
    """The layout that most of the first rows have, and what its rows are."""

    name: str
    fitting: int
    looked_at: int


def detect(path: Path) -> Detected:
    first = [row.value for row in islice((row for row in source_rows(path) if not row.problem), _LOOKED_AT)]
    if not first:
        raise InputError(str(path), "has no row that could be read", None, "name a file of JSON rows or Parquet")
    fitting = Counter(name for row in first for name, layout in LAYOUTS.items() if layout.fits(row))
    if not fitting:
        keys = ", ".join(map(str, first[0])) or "no columns"
        known = f"say which one it has with --as: {', '.join(NAMES)}"
        raise InputError(str(path), "has no layout that is known", keys, known)
    # `max` takes the first of equals, and the particular ones stand first.
    name = max(LAYOUTS, key=lambda each: fitting[each])
    return Detected(name, fitting[name], len(first))


def layout_named(name: str) -> Layout:
    known = ALIASES.get(name, name)
    if known not in LAYOUTS:
        raise InputError("--as", "there is no such layout", name, f"known: {', '.join(NAMES)}")
    return LAYOUTS[known]


def adapted_rows(path: Path, layout: str) -> Iterator[SourceRow]:
    """The file's rows, with the columns of LLaMA-Factory's named as its `dataset_info.json` says."""
    columns = declared_columns(path) if layout == "llama-factory" else {}
    for row in source_rows(path):
        yield SourceRow(row.number, llama_factory.renamed(row.value, columns), row.problem) if columns else row


def declared_columns(path: Path) -> dict[str, str]:
    """What a `dataset_info.json` beside the file calls its columns; nothing where there is none or none for it."""
    info = path.with_name("dataset_info.json")
    if not info.exists():
        return {}
    import json

    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
        named = [entry for entry in entries.values() if entry.get("file_name") == path.name]
        return {str(key): str(value) for entry in named[:1] for key, value in entry.get("columns", {}).items()}
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(str(info), f"cannot be read ({error})", None, "repair or remove it") from None


def sort_of(row: Preference | Answered) -> Sort:
    if isinstance(row, Preference):
        return "preferences"
    return "answers" if row.label is None else "unpaired"
