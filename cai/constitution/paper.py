"""The frames that the Constitutional AI paper published (arXiv 2212.08073), as plain text for a model to go on with.

Only the protocol's own labels stand here; principles and worked examples are the constitution's. The protocol knows a
human and an assistant; how a system message, tools and their results stand among them is ours, and so is that nothing
a message says becomes a label (docs/decisions/paper-style.md). The frames of the chat style are in `frames`.
"""

import json
import re
from collections.abc import Sequence

from cai.constitution.actions import said
from cai.records import Message, Role, digest

SPEAKERS: dict[Role, str] = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}
TOOLS = "Tools"
TURN = "\n\n{speaker}: {text}"
WAITING = "\n\n{speaker}:"
CRITIQUE = "\n\nCritiqueRequest: {critique}\n\nCritique:"
REVISION = "\n\nRevisionRequest: {revision}\n\nRevision:"
JUDGE = """Consider the following conversation between a human and an assistant:{conversation}

{preference}
Options:
 (A) {first}
 (B) {second}
The answer is:"""

LABELS = (" (A)", " (B)")
"""With the space that stands before them: it belongs to the first token of the target."""
STOPS = ("\n\nHuman:", "\n\nAssistant:", "\n\nCritiqueRequest:", "\n\nRevisionRequest:")
"""A model without an end of turn ends its text by opening the next one."""

_WORDS = (*SPEAKERS.values(), TOOLS, "CritiqueRequest", "Critique", "RevisionRequest", "Revision", "Options")
_LINE_START = "(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))"
_LABEL = re.compile(rf"{_LINE_START}(\s*(?:{'|'.join(_WORDS)}|The answer is)):", re.MULTILINE | re.IGNORECASE)
_OPTION = re.compile(rf"{_LINE_START}(\s*\()([AB]\))", re.MULTILINE | re.IGNORECASE)


def paper_digest() -> str:
    return digest([SPEAKERS, TOOLS, TURN, WAITING, CRITIQUE, REVISION, JUDGE, LABELS, STOPS])


def conversation_text(messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> str:
    """A conversation with its speakers named; it ends with the last message."""
    offered = [_turn(TOOLS, json.dumps(list(tools), ensure_ascii=False))] if tools else []
    return "".join([*offered, *(_turn(SPEAKERS[message.role], said(message)) for message in messages)])


def answer_text(conversation: str) -> str:
    """The conversation, waiting for the assistant."""
    return conversation + WAITING.format(speaker=SPEAKERS["assistant"])


def critique_text(conversation: str, answer: str, critique: str) -> str:
    """The exchange so far, and the request to criticise its last answer."""
    return conversation + _turn(SPEAKERS["assistant"], answer) + CRITIQUE.format(critique=critique)


def revision_text(critique_exchange: str, critique: str, revision: str) -> str:
    """The critique's exchange, the critique itself, and the request to revise."""
    return f"{critique_exchange} {inert(critique)}{REVISION.format(revision=revision)}"


def worked_revision(revision_exchange: str, revision: str) -> str:
    """An exchange that has come to its end, as an example before another."""
    return f"{revision_exchange} {inert(revision)}"


def judge_text(conversation: str, first: str, second: str, preference: str) -> str:
    """The question which of two answers is better; `LABELS` are what may follow."""
    answers = {"first": inert(first), "second": inert(second)}
    return JUDGE.format(conversation=conversation, preference=preference, **answers)


def inert(text: str) -> str:
    """The text with a space in whatever would read as a label of the frames at the start of a line."""
    return _OPTION.sub(r"\1 \2", _LABEL.sub(r"\1 :", text))


def _turn(speaker: str, text: str) -> str:
    return TURN.format(speaker=speaker, text=inert(text))
