"""LLaMA-Factory's rows: sharegpt and alpaca, for answers, ranked pairs and labelled answers.

What the columns are called is said by `dataset_info.json` beside the file; the names here are its defaults.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.records import Message, Preference, Prompt
from cai.store.formats import messages as chats
from cai.store.formats.columns import (
    Named,
    answered_columns,
    answered_from,
    label_in,
    preference_columns,
    preference_from,
)
from cai.store.formats.rows import (
    UNFIT,
    Answered,
    BadRowError,
    Columns,
    Sort,
    answer_text,
    last_answer,
    text_in,
    waiting_prompt,
    without_answer,
)

Style = Literal["sharegpt", "alpaca"]


def is_llama_factory(row: Columns) -> bool:
    labelled = "messages" in row and bool({"label", "kto_tag"} & row.keys())
    return "conversations" in row or "instruction" in row or labelled


def read_llama_factory(row: Columns, source: str) -> Preference | Answered:
    label = next((name for name in ("kto_tag", "label") if row.get(name) is not None), None)
    known = label_in(row, label) if label else None
    said = _said(row)
    prompt = _prompt(row, said, source)
    if _is_ranked(row):
        return preference_from(row, prompt, _ranked(row, "chosen"), _ranked(row, "rejected"))
    if said.field == "instruction":
        return answered_from(row, prompt, answer_text(text_in(row, "output"), "output"), known)
    return answered_from(row, prompt, answer_text(last_answer(said.messages, said.field), said.field), known)


def ask_llama_factory(row: Columns, source: str) -> Prompt:
    return _prompt(row, _said(row), source)


@dataclass(frozen=True, slots=True)
class _Said:
    """A conversation, which an alpaca row tells without its last answer, and the field that it stands in."""

    messages: tuple[Message, ...]
    field: str


def _said(row: Columns) -> _Said:
    if "instruction" in row:
        return _Said(_alpaca_messages(row), "instruction")
    field = "conversations" if "conversations" in row else "messages"
    return _Said(_system(row) + chats.turns_in(row.get(field), field), field)


def _prompt(row: Columns, said: _Said, source: str) -> Prompt:
    """The conversation of a ranked row is its prompt, and must wait; of any other the last message is the answer."""
    messages = said.messages if _is_ranked(row) else without_answer(said.messages)
    return waiting_prompt(messages, said.field, chats.tools_in(row.get("tools")), source)


def _is_ranked(row: Columns) -> bool:
    return row.get("chosen") is not None and row.get("rejected") is not None


def _ranked(row: Mapping[str, object], field: str) -> str:
    """An alpaca answer is text; a sharegpt answer is one turn."""
    value = row[field]
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list):
        return answer_text(last_answer(chats.turns_in(value, field), field), field)
    return answer_text(text_in(row, field), field)


def _system(row: Mapping[str, object]) -> tuple[Message, ...]:
    system = text_in(row, "system", "")
    return (Message("system", system),) if system else ()


def _alpaca_messages(row: Mapping[str, object]) -> tuple[Message, ...]:
    messages = list(_system(row))
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRowError("history", "must be a list of pairs", history)
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise BadRowError(f"history[{i}]", "must be a question and an answer", pair)
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    asked, given = text_in(row, "instruction"), text_in(row, "input", "")
    return (*messages, Message("user", f"{asked}\n{given}" if given else asked))


def write_llama_factory(row: Preference | Answered, style: Style, named: Named) -> list[Columns]:
    beside = preference_columns(row, named) if isinstance(row, Preference) else answered_columns(row)
    asked = _as_alpaca(row.prompt.messages) if style == "alpaca" else _as_sharegpt(row.prompt.messages)
    if row.prompt.tools:
        if style == "alpaca":
            raise BadRowError("tools", "the layout has no place for tools", None, UNFIT)
        asked["tools"] = json.dumps(row.prompt.tools, ensure_ascii=False)
    if isinstance(row, Preference):
        turn = {name: {"from": "gpt", "value": text} for name, text in _answers(row).items()}
        return [{**asked, **(_answers(row) if style == "alpaca" else turn), **beside}]
    label: Columns = {} if row.label is None else {"kto_tag": row.label}
    if style == "alpaca":
        return [{**asked, "output": row.completion, **label, **beside}]
    turns = asked.pop("conversations")
    assert isinstance(turns, list), turns
    return [{"conversations": [*turns, {"from": "gpt", "value": row.completion}], **asked, **label, **beside}]


def _answers(row: Preference) -> dict[str, str]:
    return {"chosen": row.chosen, "rejected": row.rejected}


def _as_sharegpt(messages: Sequence[Message]) -> Columns:
    """The system message goes into a column of its own; turns must then go in turn, as the loader checks."""
    system, rest = _split_system(messages)
    _check_turns(rest)
    return {"conversations": chats.as_turns(rest), **({"system": system} if system else {})}


def _as_alpaca(messages: Sequence[Message]) -> Columns:
    system, rest = _split_system(messages)
    _check_turns(rest)
    if any(message.role == "tool" or message.tool_calls for message in rest):
        raise BadRowError("messages", "the layout has no place for tool calls", None, UNFIT)
    pairs = [[asked.content, said.content] for asked, said in zip(rest[:-1:2], rest[1::2], strict=True)]
    more: Columns = {"system": system} if system else {}
    return {"instruction": rest[-1].content, "input": "", **more, **({"history": pairs} if pairs else {})}


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return "", messages


def _check_turns(messages: Sequence[Message]) -> None:
    """LLaMA-Factory drops, with a warning only, conversations that do not go back and forth."""
    for i, message in enumerate(messages):
        asking = message.role in ("user", "tool")
        if asking != (i % 2 == 0) or message.role == "system":
            problem = "does not go in turn, and the loader would drop the row"
            raise BadRowError(f"messages[{i}]", problem, message.role, "turns out of order")
    if len(messages) % 2 == 0:
        raise BadRowError("messages", "must end with a question", None, "turns out of order")


def dataset_info(name: str, file: str, sort: Sort, style: Style, more: Sequence[str]) -> dict[str, object]:
    """The entry that makes LLaMA-Factory find the file; `more` are the optional columns that some row has."""
    columns: dict[str, str] = {}
    if style == "sharegpt":
        columns["messages"] = "conversations"
    else:
        columns |= {"prompt": "instruction", "query": "input"}
        if sort != "preferences":
            columns["response"] = "output"
    if sort == "preferences":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    if sort == "unpaired":
        columns["kto_tag"] = "kto_tag"
    columns |= {column: column for column in ("system", "tools", "history") if column in more}
    entry: dict[str, object] = {"file_name": file, "formatting": style, "columns": columns}
    if sort == "preferences":
        entry["ranking"] = True
    return {name: entry}


def renamed(row: Columns, columns: Mapping[str, str]) -> Columns:
    """A row under the default names, when `dataset_info.json` calls its columns something else."""
    ours = {
        "messages": "conversations",
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        **{name: name for name in ("system", "tools", "history", "chosen", "rejected", "kto_tag")},
    }
    names = {theirs: ours[key] for key, theirs in columns.items() if key in ours}
    return {names.get(key, key): value for key, value in row.items()}
