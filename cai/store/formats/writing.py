"""Rows written as they come: JSON Lines, or Parquet in small groups with one schema from the first row to the last."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cai.store.formats.rows import UNFIT, BadRowError, Columns, Sort
from cai.store.formats.trl import Form

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = 1_000


class RowWriter(Protocol):
    def __call__(self, row: Columns) -> None:
        """Takes one row, or raises `BadRowError` and has taken nothing of it."""


@contextmanager
def json_lines(path: Path) -> Iterator[RowWriter]:
    with open(path, "w", encoding="utf-8") as handle:

        def write(row: Columns) -> None:
            handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


@contextmanager
def parquet(path: Path, schema: "pa.Schema") -> Iterator[RowWriter]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held: list[Columns] = []
    with ExitStack() as stack:
        file = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))

        def flush() -> None:
            if held:
                file.write_table(pa.Table.from_pylist(held, schema=schema))
                held.clear()

        def write(row: Columns) -> None:
            held.append({name: _with_arrow_calls(value) for name, value in row.items()})
            if len(held) == _GROUP:
                flush()

        yield write
        flush()


def schema_of(sort: Sort, form: Form, tools: bool) -> "pa.Schema":
    """The columns of TRL's layout. Without tools in the data their keys are left out: templates ask for them."""
    import pyarrow as pa

    text, chat = pa.string(), pa.list_(pa.struct(_message_fields(tools)))
    asked = [("tools", text)] if tools else []
    beside = [("id", text), ("prompt_id", text), ("source", text), ("origin", text)]
    if sort == "answers":
        return pa.schema([("messages", chat), *asked, *beside])
    if sort == "unpaired":
        return pa.schema([("prompt", chat), ("completion", chat), ("label", pa.bool_()), *asked, *beside])
    orders = [(name, pa.float64()) for name in ("p_first", "p_first_swapped")]
    verdict = pa.struct([("principle_id", text), *orders, ("reasons", pa.list_(text))])
    answers = {
        "explicit": [("prompt", chat), ("chosen", chat), ("rejected", chat)],
        "implicit": [("chosen", chat), ("rejected", chat)],
        "standard": [("prompt", text), ("chosen", text), ("rejected", text)],
        "unpaired": [("prompt", chat), ("completion", chat), ("label", pa.bool_())],
    }[form]
    judged = [
        ("kind", text),
        ("judge_prob", pa.float64()),
        ("order_flipped", pa.bool_()),
        ("principle_id", text),
        ("verdicts", pa.list_(verdict)),
    ]
    lineage = ["constitution_id", "constitution_version", "constitution_sha256", "frames_sha256"]
    lineage += ["answerer_model", "critic_model", "judge_model", "judged_by"]
    names = [(name, text) for name in lineage]
    return pa.schema([*answers, *asked, *beside, *judged, *names, ("seed", pa.int64())])


def _message_fields(tools: bool) -> "list[tuple[str, pa.DataType]]":
    import pyarrow as pa

    text = pa.string()
    plain: list[tuple[str, pa.DataType]] = [("role", text), ("content", text)]
    if not tools:
        return plain
    function = pa.struct([("name", text), ("arguments", text)])
    call = pa.struct([("id", text), ("type", text), ("function", function)])
    return [*plain, ("tool_calls", pa.list_(call)), ("tool_call_id", text)]


def _with_arrow_calls(value: object) -> object:
    """A chat whose tool calls fit the one type that the table has for them."""
    if not isinstance(value, list) or not any(isinstance(entry, dict) and "tool_calls" in entry for entry in value):
        return value
    return [{**entry, "tool_calls": [_arrow_call(c) for c in entry.get("tool_calls", [])]} for entry in value]


def _arrow_call(call: Columns) -> Columns:
    function = call.get("function")
    if (
        not isinstance(function, dict)
        or function.keys() - {"name", "arguments"}
        or call.keys() - {"id", "type", "function"}
    ):
        raise BadRowError("tool_calls", "must be calls as OpenAI writes them", call, UNFIT)
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        function = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {**call, "function": function}
