"""Data sets of ours into folders that other tools load: the rows, what the tool wants beside them, and named rejects.

The card is `data_card`'s. Files get their names when all rows are written, so nobody finds half a file.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cai.errors import InputError
from cai.files import write_atomic
from cai.records import Preference, Reject, as_dict, to_line
from cai.seeds import derive, uniform
from cai.store.dataset import DataSet, Row
from cai.store.formats import hh, llama_factory, openai, trl
from cai.store.formats.rows import BadRowError, Columns, Sort
from cai.store.formats.writing import RowWriter, json_lines, parquet, schema_of

STAGE = "export"
TARGETS = ("trl", "parquet", "jsonl", "openai", "llama-factory", "hh")
KINDS = ("preferred", "tie", "contradiction")
REJECTS = "rejects.jsonl"
_SUFFIXES: dict[Sort, str] = {"preferences": "_prefs", "answers": "_sft", "unpaired": ""}


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """How rows are laid out. `form` is TRL's, `style` LLaMA-Factory's; other targets do not ask."""

    target: str
    form: trl.Form = "explicit"
    style: llama_factory.Style = "sharegpt"
    kinds: tuple[str, ...] = ("preferred",)
    """Ties and contradictions would be trained on as if they were certain, so they must be asked for."""
    test_share: float = 0.0
    """Of the prompts: all rows of a prompt go to the same split."""


@dataclass(frozen=True, slots=True)
class Split:
    """One data file. `rows` counts the target's rows: a pair may become two."""

    name: str
    file: str
    rows: int


@dataclass(frozen=True, slots=True)
class Exported:
    """Every input is an output or a reject."""

    folder: Path
    settings: ExportSettings
    sort: Sort
    splits: tuple[Split, ...]
    inputs: int
    outputs: int
    rejects: dict[str, int] = field(default_factory=dict)


def export(data: DataSet, out: Path, settings: ExportSettings) -> Exported:
    _check(data, settings)
    if out.exists() and any(out.iterdir()):
        raise InputError(str(out), "is not empty", None, "name a new folder")
    (out / "data").mkdir(parents=True)
    names = [f"{split}{_suffix(data, settings)}" for split in ("train", "test")]
    ending = "parquet" if settings.target == "parquet" else "jsonl"
    hidden = {name: out / "data" / f".{name}.{ending}.part" for name in names}
    inputs, outputs, rows, reasons = 0, 0, Counter[str](), Counter[str]()
    optional: set[str] = set()
    with ExitStack() as stack:
        opened = _opener(data, settings)
        writers = {name: stack.enter_context(opened(path)) for name, path in hidden.items()}
        rejects = stack.enter_context(open(out / f".{REJECTS}.part", "w", encoding="utf-8"))
        for row in data.rows():
            inputs += 1
            name = names[0] if isinstance(row, Reject) else names[_split_of(row, settings.test_share)]
            reject = row if isinstance(row, Reject) else _written(row, writers[name], settings, data, optional)
            if isinstance(reject, Reject):
                reasons[reject.reason] += 1
                rejects.write(to_line(reject) + "\n")
            else:
                rows[name] += reject
                outputs += 1
    splits = tuple(_named(out, name, path, rows[name], ending) for name, path in hidden.items() if rows[name])
    for path in (*hidden.values(), out / f".{REJECTS}.part"):
        if path.exists() and path.name == f".{REJECTS}.part" and reasons:
            path.replace(out / REJECTS)
        else:
            path.unlink(missing_ok=True)
    assert inputs == outputs + reasons.total(), (inputs, outputs, reasons)
    if settings.target == "llama-factory":
        _write_dataset_info(out, splits, data.sort, settings, sorted(optional))
    return Exported(out, settings, data.sort, splits, inputs, outputs, dict(reasons))


def _check(data: DataSet, settings: ExportSettings) -> None:
    if settings.target not in TARGETS:
        raise InputError("--to", "there is no such target", settings.target, f"known: {', '.join(TARGETS)}")
    if settings.target == "hh" and data.sort != "preferences":
        raise InputError("--to", "hh-rlhf's layout holds pairs only", data.sort, "take trl or openai")
    assert set(settings.kinds) <= set(KINDS), settings.kinds
    if not 0 <= settings.test_share < 1:
        raise InputError("--test-share", "must be 0 or more and below 1", settings.test_share, "take 0.05, say")


def _suffix(data: DataSet, settings: ExportSettings) -> str:
    labelled = settings.target in ("trl", "parquet") and settings.form == "unpaired"
    return _SUFFIXES["unpaired" if labelled and data.sort == "preferences" else data.sort]


def _opener(data: DataSet, settings: ExportSettings) -> Callable[[Path], AbstractContextManager[RowWriter]]:
    if settings.target != "parquet":
        return json_lines
    # A table has one schema, so whether any row has tools must be known before the first is written.
    tools = any(_has_tools(row) for row in data.rows() if not isinstance(row, Reject))
    schema = schema_of(data.sort, settings.form, tools)
    return lambda path: parquet(path, schema)


def _has_tools(row: Row) -> bool:
    prompt = row.prompt
    return bool(prompt.tools) or any(m.tool_calls or m.tool_call_id is not None for m in prompt.messages)


def _split_of(row: Row, test_share: float) -> int:
    return int(test_share > 0 and uniform(derive("split", row.prompt.id), 0) < test_share)


def _written(row: Row, write: RowWriter, settings: ExportSettings, data: DataSet, optional: set[str]) -> int | Reject:
    """How many rows of the target it became, or why none."""
    if isinstance(row, Preference) and row.kind not in settings.kinds:
        return Reject(row.id, STAGE, row.kind, f"p of the chosen answer is {row.p_chosen:.3f}")
    try:
        made = list(_laid_out(row, settings, data))
        for each in made:
            write(each)
    except BadRowError as error:
        return Reject(row.id, STAGE, error.reason, str(error))
    optional.update(key for each in made for key in each)
    return len(made)


def _laid_out(row: Row, settings: ExportSettings, data: DataSet) -> Iterator[Columns]:
    match settings.target:
        case "jsonl":
            yield as_dict(row)
        case "openai":
            yield from openai.write_openai(row)
        case "llama-factory":
            yield from llama_factory.write_llama_factory(row, settings.style, data.named)
        case "hh":
            assert isinstance(row, Preference), row
            yield from hh.write_hh(row, data.named)
        case _ if isinstance(row, Preference):
            yield from trl.write_preference(row, settings.form, data.named)
        case _:
            yield from trl.write_answered(row)


def _named(out: Path, name: str, hidden: Path, rows: int, ending: str) -> Split:
    file = f"data/{name}.{ending}"
    hidden.replace(out / file)
    return Split(name, file, rows)


def _write_dataset_info(
    out: Path, splits: Sequence[Split], sort: Sort, settings: ExportSettings, optional: Sequence[str]
) -> None:
    info: dict[str, object] = {}
    for split in splits:
        info |= llama_factory.dataset_info(split.name, split.file, sort, settings.style, optional)
    write_atomic(out / "dataset_info.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")
