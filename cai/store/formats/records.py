"""Rows in our own layout: a record of this project on each line, as a run or an import wrote it."""

from cai.records import Preference, Prompt, from_dict
from cai.store.formats.rows import Answered, BadRowError, Columns, waiting_prompt


def is_record(row: Columns) -> bool:
    prompt = row.get("prompt")
    return (
        isinstance(prompt, dict)
        and prompt.keys() >= {"id", "messages"}
        and bool({"verdicts", "completion"} & row.keys())
    )


def read_record(row: Columns, source: str) -> Preference | Answered:  # noqa: ARG001 - the record knows its source
    try:
        if "verdicts" in row:
            return from_dict(Preference, row)
        # The supervised stage's examples say more about themselves than an answer has fields for.
        known: Columns = {name: row[name] for name in ("prompt", "completion", "label") if name in row}
        known["origin"] = row.get("origin") or row.get("kind") or ""
        return from_dict(Answered, known)
    except ValueError as error:
        raise BadRowError(*_split(str(error))) from None


def ask_record(row: Columns, source: str) -> Prompt:
    """The prompt of any record that has one: a pair, an answer, a revision."""
    try:
        found = from_dict(Prompt, row.get("prompt"))
    except ValueError as error:
        raise BadRowError("prompt", *_split(str(error))[1:]) from None
    return waiting_prompt(found.messages, "prompt.messages", found.tools, found.source or source)


def _split(message: str) -> tuple[str, str]:
    place, _, problem = message.partition(": ")
    return place.partition(".")[2] or "record", problem or message
