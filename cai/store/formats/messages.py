"""Conversations as other tools write them: OpenAI's messages, ShareGPT's turns, hh-rlhf's transcripts."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import get_args

from cai.records import Message, Role
from cai.store.formats.rows import UNFIT, BadRowError, Columns, text_in, unicode_text

ROLES: tuple[Role, ...] = get_args(Role)
_ROLE_NAMES: dict[str, Role] = {**{role: role for role in ROLES}, "developer": "system", "function": "tool"}

SHAREGPT_TURNS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


def messages_in(value: object, field: str) -> tuple[Message, ...]:
    """OpenAI's messages: `role`, `content`, and tool calls."""
    if not isinstance(value, list) or not value:
        raise BadRowError(field, "must be a list of messages", value)
    return tuple(_message(entry, f"{field}[{i}]") for i, entry in enumerate(value))


def _message(entry: object, field: str) -> Message:
    if not isinstance(entry, Mapping):
        raise BadRowError(field, "must be a message with role and content", entry)
    if entry.keys() & {"from", "value"} and "role" not in entry:
        return _turn(entry, field)
    role = _ROLE_NAMES.get(str(entry.get("role")))
    if role is None:
        raise BadRowError(f"{field}.role", f"must be one of {', '.join(ROLES)}", entry.get("role"))
    calls = entry.get("tool_calls") or ()
    if not isinstance(calls, list | tuple) or not all(isinstance(call, dict) for call in calls):
        raise BadRowError(f"{field}.tool_calls", "must be a list of calls", calls)
    call_id = entry.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        raise BadRowError(f"{field}.tool_call_id", "must be text", call_id)
    # Tables fill in keys that a call does not have.
    known = tuple({key: value for key, value in call.items() if value is not None} for call in calls)
    return Message(role, _content(entry, field, bool(calls)), known, call_id)


def _content(entry: Mapping[str, object], field: str, calls: bool) -> str:
    content = entry.get("content")
    if content is None and calls:
        return ""
    if isinstance(content, list):
        parts = []
        for i, part in enumerate(content):
            if not isinstance(part, Mapping) or part.get("type", "text") != "text":
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise BadRowError(f"{field}.content[{i}]", "is not text", kind, "not text")
            parts.append(text_in(part, "text"))
        return "".join(parts)
    if not isinstance(content, str):
        raise BadRowError(f"{field}.content", "must be text" if "content" in entry else "is missing", content)
    return unicode_text(content, f"{field}.content")


def as_messages(messages: Sequence[Message]) -> list[Columns]:
    return [as_message(message) for message in messages]


def as_message(message: Message) -> Columns:
    """OpenAI's message; keys without a value are left out, because templates ask whether they are there."""
    made: Columns = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def turns_in(value: object, field: str) -> tuple[Message, ...]:
    """ShareGPT's turns: `from` and `value`; a function call is an assistant's message that calls a tool."""
    if not isinstance(value, list) or not value:
        raise BadRowError(field, "must be a list of turns", value)
    return tuple(_message(entry, f"{field}[{i}]") for i, entry in enumerate(value))


def _turn(entry: Mapping[str, object], field: str) -> Message:
    name = str(entry.get("from"))
    role = SHAREGPT_TURNS.get(name)
    if role is None:
        raise BadRowError(f"{field}.from", f"must be one of {', '.join(SHAREGPT_TURNS)}", entry.get("from"))
    if not isinstance(entry.get("value"), str):
        raise BadRowError(f"{field}.value", "must be text", entry.get("value"))
    text = unicode_text(str(entry["value"]), f"{field}.value")
    if name == "function_call":
        return Message(role, "", tuple(_calls(text, f"{field}.value")))
    return Message(role, text)


def _calls(text: str, field: str) -> list[Columns]:
    """Calls as OpenAI writes them, from LLaMA-Factory's `{"name", "arguments"}` or a list of such."""
    try:
        value = json.loads(text)
    except ValueError:
        raise BadRowError(field, "must be a function call in JSON", text) from None
    calls = value if isinstance(value, list) else [value]
    made: list[Columns] = []
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise BadRowError(field, "must be a function call with a name", text)
        arguments = call.get("arguments", {})
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        made.append({"type": "function", "function": {"name": call["name"], "arguments": written}})
    return made


def as_turns(messages: Sequence[Message]) -> list[Columns]:
    names: dict[Role, str] = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    made: list[Columns] = []
    for i, message in enumerate(messages):
        if message.tool_calls and message.content.strip():
            raise BadRowError(
                f"messages[{i}]", "speaks and calls a tool at once, which the layout cannot say", None, UNFIT
            )
        if message.tool_calls:
            made.append({"from": "function_call", "value": _calls_told(message, f"messages[{i}]")})
        else:
            made.append({"from": names[message.role], "value": message.content})
    return made


def _calls_told(message: Message, field: str) -> str:
    told = []
    for call in message.tool_calls:
        function = call.get("function")
        if not isinstance(function, dict) or "name" not in function:
            raise BadRowError(f"{field}.tool_calls", "must hold functions as OpenAI writes them", call)
        arguments = function.get("arguments", {})
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError:
            raise BadRowError(f"{field}.tool_calls", "has arguments that are not JSON", arguments) from None
        told.append({"name": function["name"], "arguments": arguments})
    return json.dumps(told[0] if len(told) == 1 else told, ensure_ascii=False)


def tools_in(value: object, field: str = "tools") -> tuple[Columns, ...]:
    """Tool definitions: a list, or the same as a JSON text, which is how tables hold them."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRowError(field, "must be JSON", value) from None
    if not isinstance(value, list) or not all(_is_named(tool) for tool in value):
        raise BadRowError(field, "must be a list of named functions", value)
    return tuple(value)


def _is_named(tool: object) -> bool:
    """OpenAI wraps a function, other tools write it bare."""
    known = tool.get("function", tool) if isinstance(tool, dict) else None
    return isinstance(known, dict) and isinstance(known.get("name"), str)


def is_transcript(value: object) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:") and ASSISTANT in value


def transcript_in(text: str, field: str) -> tuple[Message, ...]:
    """hh-rlhf's one text for a whole conversation; the one space behind each mark is the mark's."""
    if not text.startswith(HUMAN):
        # Some copies of the data have lost the blank line at the very start.
        text = "\n\n" + text.lstrip()
    parts = _TURN.split(text)
    if parts[0] or len(parts) < 3:
        raise BadRowError(field, "must be a transcript that begins with 'Human:'", text)
    names: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(names[name], said.removeprefix(" ")) for name, said in pairs)


def as_transcript(messages: Sequence[Message]) -> str:
    marks = {"user": HUMAN, "assistant": ASSISTANT}
    written = []
    for i, message in enumerate(messages):
        if message.role not in marks or message.tool_calls:
            raise BadRowError(f"messages[{i}]", f"has no place for {message.role} messages or calls", None, UNFIT)
        if _TURN.search(f" {message.content}") or (not message.content.strip() and message.role == "user"):
            raise BadRowError(f"messages[{i}]", "is empty or holds a turn mark of the layout", message.content, UNFIT)
        written.append(f"{marks[message.role]} {message.content}")
    if not messages or messages[0].role != "user":
        raise BadRowError("messages[0]", "must be the user's in this layout", None, UNFIT)
    return "".join(written)
