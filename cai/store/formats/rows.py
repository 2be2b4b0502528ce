"""What a data set may hold, whatever its layout: judged pairs, or single answers with or without a label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cai.errors import shorten
from cai.records import Lineage, Message, Prompt, content_id, new_prompt

Sort = Literal["preferences", "answers", "unpaired"]
SORTS: tuple[Sort, ...] = ("preferences", "answers", "unpaired")

Columns: TypeAlias = dict[str, object]
"""One row of a foreign layout: what a JSON object or a Parquet row gives."""

UNFIT = "does not fit the layout"
"""Why a row that is fine here cannot be written for another tool."""

UNKNOWN = Lineage(constitution="", frames="", seed=0, judged_by="label")
"""Of a pair that came without lineage: somebody said which answer is better, and nothing else is known."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to learn from. `label` says whether it is a wanted one; None where the layout does not ask."""

    prompt: Prompt
    completion: str
    label: bool | None = None
    origin: str = ""

    @property
    def id(self) -> str:
        return content_id("answered", self.prompt.id, self.completion, self.label)


class BadRowError(ValueError):
    """A row that cannot be used: the field, the problem, and a short reason to count by."""

    def __init__(self, field: str, problem: str, value: object = None, reason: str = "wrong field") -> None:
        super().__init__(field, problem, value, reason)
        self.field, self.problem, self.value, self.reason = field, problem, value, reason

    def __str__(self) -> str:
        got = "" if self.value is None else f", got {shorten(self.value, 80)}"
        return f"{self.field}: {self.problem}{got}"


def text_in(row: Mapping[str, object], field: str, default: str | None = None) -> str:
    """A field that must be text. Half of a surrogate pair is no text: no file can hold it."""
    value = row.get(field, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise BadRowError(field, "must be text" if field in row else "is missing", row.get(field))
    return unicode_text(value, field)


def unicode_text(value: str, field: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRowError(field, "holds half a character", ascii(value), "broken text") from None
    return value


def waiting_prompt(
    messages: tuple[Message, ...], field: str, tools: tuple[Columns, ...] = (), source: str = ""
) -> Prompt:
    """The prompt of these messages, if they wait for an answer."""
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise BadRowError(field, "has no user message with text", None, "no user message")
    if messages[-1].role == "assistant":
        raise BadRowError(field, "ends with the assistant", messages[-1].content, "prompt already answered")
    return new_prompt(messages, source, tools=tools)


def without_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation without the assistant's message that ends it, if one does."""
    return messages[:-1] if messages and messages[-1].role == "assistant" else messages


def last_answer(messages: tuple[Message, ...], field: str) -> str:
    """The text of the assistant's message that ends a conversation."""
    if not messages or messages[-1].role != "assistant":
        raise BadRowError(field, "must end with an assistant message", None, "no answer")
    if messages[-1].tool_calls:
        raise BadRowError(field, "ends with a tool call, and a record's answer is text", None, "answer is a tool call")
    return answer_text(messages[-1].content, field)


def answer_text(text: str, field: str) -> str:
    if not text.strip():
        raise BadRowError(field, "is empty", None, "empty answer")
    return text
