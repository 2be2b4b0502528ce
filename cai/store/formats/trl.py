"""TRL's and `datasets`' rows: preferences with explicit or implicit prompt, chats or plain text; answers; labels."""

import json
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
    answer_text,
    last_answer,
    text_in,
    unicode_text,
    waiting_prompt,
    without_answer,
)

Form = Literal["explicit", "standard", "implicit", "unpaired"]
FORMS: tuple[Form, ...] = ("explicit", "standard", "implicit", "unpaired")
"""How a preference is laid out: chat with its prompt, plain text, chat without, or as two labelled answers."""


def is_trl(row: Columns) -> bool:
    answered = row.keys() >= {"chosen", "rejected"} or row.keys() >= {"prompt", "completion"}
    return answered or isinstance(row.get("messages"), list)


def read_trl(row: Columns, source: str) -> Preference | Answered:
    if row.keys() >= {"chosen", "rejected"}:
        return _preference(row, source)
    if "completion" in row:
        label = label_in(row, "label") if row.get("label") is not None else None
        prompt, completion = _asked(row, row["completion"], "completion", source)
        return answered_from(row, prompt, completion, label)
    if row.get("messages") is None:
        raise BadRowError("chosen", "is missing, and so are rejected, completion and messages")
    return read_chat(row, source)


def read_chat(row: Columns, source: str) -> Answered:
    """A whole conversation, of which the last message is to be learned."""
    found = chats.messages_in(row.get("messages"), "messages")
    completion = answer_text(last_answer(found, "messages"), "messages")
    prompt = waiting_prompt(found[:-1], "messages", chats.tools_in(row.get("tools")), source)
    label = label_in(row, "label") if row.get("label") is not None else None
    return answered_from(row, prompt, completion, label)


def ask_trl(row: Columns, source: str) -> Prompt:
    """The row's own prompt; where it has none, what its answers have before them."""
    if isinstance(row.get("prompt"), list):
        return ask_alone(row, source)
    fields = [field for field in ("chosen", "rejected", "completion") if field in row]
    if not fields:
        return ask_chat(row, source)
    before = {field: _before(row, field) for field in fields}
    first = before[fields[0]]
    for field, messages in before.items():
        if messages != first:
            raise BadRowError(field, f"answers another conversation than {fields[0]} does", None, "different prompts")
    return waiting_prompt(first, fields[0], chats.tools_in(row.get("tools")), source)


def ask_chat(row: Columns, source: str) -> Prompt:
    said = chats.messages_in(row.get("messages"), "messages")
    return waiting_prompt(without_answer(said), "messages", chats.tools_in(row.get("tools")), source)


def ask_alone(row: Columns, source: str) -> Prompt:
    """A row without answers: `prompt` as text, with a `system` beside it if there is one, or as messages."""
    tools = chats.tools_in(row.get("tools"))
    if isinstance(row.get("prompt"), list):
        return waiting_prompt(chats.messages_in(row["prompt"], "prompt"), "prompt", tools, source)
    system = text_in(row, "system", "")
    asked = Message("user", text_in(row, "prompt"))
    return waiting_prompt((Message("system", system), asked) if system else (asked,), "prompt", tools, source)


def _before(row: Columns, field: str) -> tuple[Message, ...]:
    """What an answer follows, when the row's prompt is no list: the turns before it, else the prompt's text."""
    answer = row[field]
    said = without_answer(chats.messages_in(answer, field)) if isinstance(answer, list) else ()
    return said or (Message("user", text_in(row, "prompt")),)


def _preference(row: Columns, source: str) -> Preference:
    chosen_prompt, chosen = _asked(row, row["chosen"], "chosen", source)
    rejected_prompt, rejected = _asked(row, row["rejected"], "rejected", source)
    same = len(chosen_prompt.messages) == len(rejected_prompt.messages)
    if not same or chosen_prompt.messages != rejected_prompt.messages:
        problem = "answers another conversation than chosen does"
        raise BadRowError("rejected", problem, None, "different prompts")
    return preference_from(row, chosen_prompt, chosen, rejected)


def _asked(row: Columns, answer: object, field: str, source: str) -> tuple[Prompt, str]:
    """The prompt and the answer's text, wherever the prompt stands."""
    tools = chats.tools_in(row.get("tools"))
    if isinstance(answer, list):
        said = chats.messages_in(answer, field)
        text = answer_text(last_answer(said, field), field)
        before = said[:-1]
        if isinstance(row.get("prompt"), list):
            before = (*chats.messages_in(row["prompt"], "prompt"), *before)
        elif not before:
            # A prompt that is text, beside answers that are chats.
            before = (Message("user", text_in(row, "prompt")),)
        return waiting_prompt(before, "prompt" if row.get("prompt") else field, tools, source), text
    if not isinstance(answer, str):
        raise BadRowError(field, "must be text or a list of messages", answer)
    text = answer_text(unicode_text(answer, field), field)
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        return waiting_prompt(chats.messages_in(prompt, "prompt"), "prompt", tools, source), text
    if prompt is None:
        raise BadRowError("prompt", "is missing, and without it the answers must be lists of messages")
    return waiting_prompt((Message("user", text_in(row, "prompt")),), "prompt", tools, source), text


def write_preference(row: Preference, form: Form, named: Named) -> list[Columns]:
    beside = preference_columns(row, named)
    prompt = chats.as_messages(row.prompt.messages)
    answers = {name: as_answer(text) for name, text in (("chosen", row.chosen), ("rejected", row.rejected))}
    tools = _tools(row.prompt)
    match form:
        case "explicit":
            return [{"prompt": prompt, **answers, **tools, **beside}]
        case "implicit":
            return [{**{name: [*prompt, *answer] for name, answer in answers.items()}, **tools, **beside}]
        case "standard":
            return [{"prompt": only_text(row.prompt), "chosen": row.chosen, "rejected": row.rejected, **beside}]
        case "unpaired":
            return [
                {"prompt": prompt, "completion": answers[name], "label": name == "chosen", **tools, **beside}
                for name in ("chosen", "rejected")
            ]


def write_answered(row: Answered) -> list[Columns]:
    prompt = chats.as_messages(row.prompt.messages)
    tools = _tools(row.prompt)
    answer = as_answer(row.completion)
    if row.label is None:
        return [{"messages": [*prompt, *answer], **tools, **answered_columns(row)}]
    return [{"prompt": prompt, "completion": answer, "label": row.label, **tools, **answered_columns(row)}]


def as_answer(text: str) -> list[Columns]:
    return [{"role": "assistant", "content": text}]


def _tools(prompt: Prompt) -> Columns:
    # As JSON text: two tools with different parameters have no common type in a table.
    return {"tools": json.dumps(prompt.tools, ensure_ascii=False)} if prompt.tools else {}


def only_text(prompt: Prompt) -> str:
    """The prompt as one text, where that is all that it is."""
    if len(prompt.messages) != 1 or prompt.tools:
        raise BadRowError("prompt", "is a conversation, and the layout holds one text", None, UNFIT)
    return prompt.messages[0].content
