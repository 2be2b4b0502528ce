"""OpenAI's fine-tuning files: preferences with `input` and two outputs, and chats. They allow no other columns."""

from collections.abc import Mapping

from cai.records import Preference, Prompt
from cai.store.formats import messages as chats
from cai.store.formats.columns import preference_from
from cai.store.formats.rows import Answered, BadRowError, Columns, answer_text, last_answer, waiting_prompt
from cai.store.formats.trl import as_answer, ask_chat, read_chat


def is_openai(row: Columns) -> bool:
    return "preferred_output" in row or "non_preferred_output" in row


def read_openai(row: Columns, source: str) -> Preference | Answered:
    if not is_openai(row):
        return read_chat(row, source)
    prompt = ask_openai(row, source)
    answers = [_output(row.get(field), field) for field in ("preferred_output", "non_preferred_output")]
    return preference_from({}, prompt, *answers)


def ask_openai(row: Columns, source: str) -> Prompt:
    if not is_openai(row):
        return ask_chat(row, source)
    asked = row.get("input")
    if not isinstance(asked, Mapping):
        raise BadRowError("input", "must be an object with messages", asked)
    messages = chats.messages_in(asked.get("messages"), "input.messages")
    return waiting_prompt(messages, "input.messages", chats.tools_in(asked.get("tools"), "input.tools"), source)


def _output(value: object, field: str) -> str:
    said = chats.messages_in(value, field)
    if len(said) != 1:
        raise BadRowError(field, "must be one assistant message", f"{len(said)} messages")
    return answer_text(last_answer(said, field), field)


def write_openai(row: Preference | Answered) -> list[Columns]:
    if isinstance(row, Answered) and row.label is False:
        raise BadRowError("label", "is false, and the layout holds wanted answers only", None, "unwanted answer")
    asked: Columns = {"messages": chats.as_messages(row.prompt.messages)}
    tools: Columns = {"tools": list(row.prompt.tools)} if row.prompt.tools else {}
    if isinstance(row, Answered):
        return [{"messages": [*chats.as_messages(row.prompt.messages), *as_answer(row.completion)], **tools}]
    if tools:
        asked |= {**tools, "parallel_tool_calls": True}
    return [
        {
            "input": asked,
            "preferred_output": as_answer(row.chosen),
            "non_preferred_output": as_answer(row.rejected),
        }
    ]
