"""The values that flow through a run: frozen, and one JSON line each.

An id is a hash of content, never a counter, so the same content has the same id in every run. Nothing here reads or
writes files: `journal` does.
"""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Literal, TypeVar

Role = Literal["system", "user", "assistant", "tool"]
PreferenceKind = Literal["preferred", "tie", "contradiction"]
Record = TypeVar("Record")
_LEAVES = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[dict[str, object], ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer: its last message is never the assistant's."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, object], ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One critique and the revision that followed; `changed` is false for a null edit."""

    principle_id: str
    critique: str
    revision: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Lineage:
    """What made a record: which principles and frames, from which seed, and which model played which role."""

    constitution: str
    frames: str
    seed: int
    answerer: str = ""
    critic: str = ""
    judge: str = ""
    judged_by: str = ""
    """How the judge's choices were read: its log-probabilities, or its word in one of the ways that `Choice` names."""


@dataclass(frozen=True, slots=True)
class Revision:
    prompt: Prompt
    initial: str
    rounds: tuple[Round, ...]
    final: str
    lineage: Lineage

    @property
    def id(self) -> str:
        return content_id("revision", self.prompt.id, self.initial, self.final)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One principle's judgement of a pair: the probability of the *same* answer, shown first and shown second."""

    principle_id: str
    p_first: float
    p_first_swapped: float
    reasons: tuple[str, ...] = ()
    """What the judge thought before it decided, where it was asked to: as many texts about either order, those with the
    answer shown first before the others."""

    @property
    def p(self) -> float:
        return (self.p_first + self.p_first_swapped) / 2

    def turned(self) -> "Verdict":
        """The same judgement told of the other answer, which stood first where this one stood second."""
        half = len(self.reasons) // 2
        reasons = (*self.reasons[half:], *self.reasons[:half])
        return Verdict(self.principle_id, 1 - self.p_first_swapped, 1 - self.p_first, reasons)


@dataclass(frozen=True, slots=True)
class Preference:
    """A judged pair. `p_chosen` is the judge's probability that `chosen` is better, averaged over both orders."""

    prompt: Prompt
    chosen: str
    rejected: str
    p_chosen: float
    verdicts: tuple[Verdict, ...]
    kind: PreferenceKind
    lineage: Lineage
    origin: str = ""

    @property
    def id(self) -> str:
        return content_id("preference", self.prompt.id, self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Reject:
    """An input that ended here, and why: `reason` is a short name to count by, `detail` is for people."""

    id: str
    stage: str
    reason: str
    detail: str


def content_id(*parts: object) -> str:
    """Sixteen hexadecimal digits that depend on the content alone."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]


def digest(value: object) -> str:
    """The SHA-256 of a value in its canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON with one spelling for each value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def new_prompt(
    text_or_messages: str | tuple[Message, ...],
    source: str = "",
    system: str = "",
    tools: tuple[dict[str, object], ...] = (),
) -> Prompt:
    """A prompt from one user text or from a whole conversation, with its id; tools that are offered are part of it."""
    if isinstance(text_or_messages, str):
        messages: tuple[Message, ...] = (Message("user", text_or_messages),)
        if system:
            messages = (Message("system", system), *messages)
    else:
        messages = text_or_messages
    offered = [list(tools)] if tools else []
    return Prompt(content_id("prompt", [as_dict(m) for m in messages], *offered), messages, tools, source)


def as_dict(record: object) -> dict[str, object]:
    """A record as plain JSON values, fields in their declared order."""
    assert dataclasses.is_dataclass(record) and not isinstance(record, type), record
    return {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}


def to_line(record: object) -> str:
    """One JSON line, without the line end."""
    return json.dumps(as_dict(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def from_dict(kind: type[Record], value: object) -> Record:
    """The record that `as_dict` wrote. A value of another shape raises `ValueError` with the field's name."""
    return typing.cast(Record, _restore(kind, value, kind.__name__))


def from_line(kind: type[Record], line: str) -> Record:
    return from_dict(kind, json.loads(line))


def _plain(value: object) -> object:
    if type(value) in _LEAVES:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _restore(kind: object, value: object, place: str) -> object:
    # Most values are leaves of the right type; asking what an annotation means takes longer than all else.
    if kind is type(value) and kind in _LEAVES:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{place}: expected an object, got {value!r}")
        hints = _hints(kind)
        unknown, known = value.keys() - hints.keys(), [f for f in dataclasses.fields(kind) if f.name in value]
        if unknown:
            raise ValueError(f"{place}: unknown field {min(unknown)!r}")
        try:
            return kind(**{f.name: _restore(hints[f.name], value[f.name], f"{place}.{f.name}") for f in known})
        except TypeError as error:
            raise ValueError(f"{place}: {error}") from error
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{place}: expected a list, got {value!r}")
        return tuple(_restore(args[0], v, f"{place}[{i}]") for i, v in enumerate(value))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _restore(next(a for a in args if a is not type(None)), value, place)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{place}: expected one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or kind
    if not isinstance(expected, type) or not isinstance(value, expected):
        raise ValueError(f"{place}: expected {getattr(expected, '__name__', expected)}, got {value!r}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    # Resolving the annotations anew for each record takes more time than all the rest of reading it.
    return typing.get_type_hints(kind)
