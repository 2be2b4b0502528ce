"""What is sent and what comes back, as bytes: requests rendered, replies and event streams read. No network here.

A reply is read strictly: whatever is not there, or is there twice with another content, makes a `Fault`, never a value.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from cai.constitution.actions import said
from cai.models.remote.faults import Fault
from cai.records import Message

DONE = "[DONE]"
Ending = Literal["stop", "length", "tool call", "content filter"]
_ENDINGS: dict[str, Ending] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool call",
    "function_call": "tool call",
    "content_filter": "content filter",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete reply."""

    text: str
    ending: Ending
    served: str
    """The name of the model that answered, as the endpoint tells it."""
    used: tuple[int, int] | None
    """Tokens of prompt and reply; None where the endpoint does not tell."""
    top: Mapping[str, float] | None = None
    """Log-probabilities of what might have stood first, by text."""
    calls: int = 0
    """Tool calls, which stand in the text behind what was said."""


def plain_message(message: Message) -> dict[str, object]:
    plain: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def read_answer(body: str) -> Answer:
    """The answer in a whole JSON body."""
    value = _object(body)
    used = _used(value)
    if "error" in value:
        _broken("server error", json.dumps(value["error"])[:200], used)
    choice = _first_choice(value, used)
    message, text, calls = choice.get("message"), _text(choice.get("text")), list[str]()
    if isinstance(message, dict):
        calls = _calls(message.get("tool_calls"), used)
        text = _text(message.get("content"))
        if text is None:
            text = _text(message.get("refusal")) or ""
    elif text is None:
        _broken("unclear reply", "the choice has no message and no text", used)
    whole = "\n".join([*([text] if text or not calls else []), *calls])
    return Answer(_sound(whole), _ending(choice, used), _served(value), used, _top(choice), len(calls))


class StreamReader:
    """A reply that comes in pieces. It is complete once its finish reason and `[DONE]` have both come."""

    def __init__(self, clean: Callable[[str], str] = str) -> None:
        """`clean` takes out of each event what must not be shown if it turns out to be broken."""
        self._events = EventReader()
        self._clean = clean
        self._texts: list[str] = []
        self._ending: Ending | None = None
        self._served = ""
        self._used: tuple[int, int] | None = None
        self.complete = False

    def feed(self, data: bytes) -> None:
        for event in self._events.feed(data):
            # What follows [DONE] is not looked at, because whether it is read depends on where the bytes were split.
            if not self.complete:
                self._take(self._clean(event))

    def answer(self) -> Answer:
        if not self.complete or self._ending is None:
            _broken("incomplete stream", "it ended before its finish reason and [DONE]", self._used)
        return Answer(_sound("".join(self._texts)), self._ending, self._served, self._used)

    def _take(self, event: str) -> None:
        if event.strip() == DONE:
            if self._ending is None:
                _broken("incomplete stream", "[DONE] came without a finish reason", self._used)
            self.complete = True
            return
        value = _object(event)
        if "error" in value:
            _broken("server error", json.dumps(value["error"])[:200], self._used)
        self._used = _used(value) or self._used
        self._served = _served(value) or self._served
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._take_choice(choice)

    def _take_choice(self, choice: dict[str, object]) -> None:
        delta = choice.get("delta")
        # A chat comes in deltas, a plain text in texts.
        text = _text(delta.get("content")) if isinstance(delta, dict) else _text(choice.get("text"))
        if text and self._ending is not None:
            _broken("unclear reply", "text came after the finish reason", self._used)
        self._texts.append(text or "")
        if choice.get("finish_reason") is not None:
            self._ending = _ending(choice, self._used)


class EventReader:
    """Server-sent events from bytes, the same wherever the bytes are split; only the data lines matter here."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """The data of each event that is now complete: one that a blank line has ended."""
        rest = self._rest + data
        # A carriage return at the end may be half of a line end.
        held = b"\r" if rest.endswith(b"\r") else b""
        *lines, self._rest = rest.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest += held
        events: list[str] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append("\n".join(self._data))
                self._data = []
                continue
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
        return events


def _object(body: str) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        shown = body[:80].strip()
        _broken("not JSON", f"it begins with {shown!r}" if shown else "it is empty")
    if not isinstance(value, dict):
        _broken("not JSON", f"it is a {type(value).__name__}, not an object")
    return value


def _first_choice(value: dict[str, object], used: tuple[int, int] | None) -> dict[str, object]:
    """The one choice with index 0, wherever it stands; the same one twice is one, two different ones are none."""
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        _broken("empty choices", "the reply has no choice", used)
    first = [c for i, c in enumerate(choices) if isinstance(c, dict) and c.get("index", i) == 0]
    if not first:
        _broken("unclear reply", "no choice has index 0", used)
    if any(choice != first[0] for choice in first[1:]):
        _broken("unclear reply", "two different choices have index 0", used)
    return first[0]


def _ending(choice: dict[str, object], used: tuple[int, int] | None) -> Ending:
    reason = choice.get("finish_reason")
    if not isinstance(reason, str) or reason not in _ENDINGS:
        _broken("incomplete reply", f"its finish reason is {reason!r}", used)
    return _ENDINGS[reason]


def _calls(listed: object, used: tuple[int, int] | None) -> list[str]:
    """The calls of a message, written as an agent's actions are everywhere."""
    calls = listed if isinstance(listed, list) else []
    if not all(isinstance(call, dict) for call in calls):
        _broken("unclear reply", "a tool call is no object", used)
    return [said(Message("assistant", "", (call,))) for call in calls]


def _text(content: object) -> str | None:
    """A content as text: text as it is, a list of parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return None


def _sound(text: str) -> str:
    """The text without half characters (lone surrogates), which JSON can hold and no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _served(value: dict[str, object]) -> str:
    name = value.get("model")
    return _sound(name) if isinstance(name, str) else ""


def _used(value: dict[str, object]) -> tuple[int, int] | None:
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, reply = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(reply) is not int or prompt < 0 or reply < 0:
        return None
    return prompt, reply


def _top(choice: dict[str, object]) -> dict[str, float] | None:
    """The first position's log-probabilities, each text once; None where they are not there or not in order.

    Of a chat they are a list of entries for each position, of a plain text one object.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return None
    listed = _first(logprobs.get("content"))
    entries = listed.get("top_logprobs") if isinstance(listed, dict) else None
    told = _first(logprobs.get("top_logprobs"))
    if isinstance(entries, list):
        pairs = [(e.get("token"), e.get("logprob")) if isinstance(e, dict) else (None, None) for e in entries]
    else:
        pairs = list(told.items()) if isinstance(told, dict) else []
    found: dict[str, float] = {}
    for token, value in pairs:
        if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if math.isnan(value) or value > 1e-3:
            return None
        sound = _sound(token)
        found[sound] = max(float(value), found.get(sound, -math.inf))
    return found or None


def _first(positions: object) -> object:
    return positions[0] if isinstance(positions, list) and positions else None


def _broken(reason: str, detail: str, used: tuple[int, int] | None = None) -> NoReturn:
    raise Fault("again", reason, detail, used=used)
