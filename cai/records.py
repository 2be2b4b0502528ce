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
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal, TypeVar

Role = Literal["system", "user", "assistant", "tool"]
PreferenceKind = Literal["preferred", "tie", "contradiction"]
Record = TypeVar("Record")
_LEAVES = frozenset((str, int, float, bool, type(None)))
_LINES = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_Reader = Callable[[object], object]


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
    plain: dict[str, object] = {}
    for name in _names(typing.cast(Hashable, type(record))):
        value = getattr(record, name)
        plain[name] = value if type(value) in _LEAVES else _plain(value)
    return plain


def to_line(record: object) -> str:
    """One JSON line, without the line end."""
    return _LINES.encode(as_dict(record))


def from_dict(kind: type[Record], value: object) -> Record:
    """The record that `as_dict` wrote. A value of another shape raises `ValueError` with the field's name."""
    try:
        return typing.cast(Record, _reader(typing.cast(Hashable, kind))(value))
    except _MisfitError as error:
        raise ValueError(f"{kind.__name__}{error.place}: {error.problem}") from error.__cause__


def from_line(kind: type[Record], line: str) -> Record:
    return from_dict(kind, json.loads(line))


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [v if type(v) in _LEAVES else _plain(v) for v in value]
    return as_dict(value) if dataclasses.is_dataclass(value) else value


@functools.cache
def _names(kind: Hashable) -> tuple[str, ...]:
    assert isinstance(kind, type) and dataclasses.is_dataclass(kind), kind
    return tuple(field.name for field in dataclasses.fields(kind))


class _MisfitError(Exception):
    """What is wrong with a value; the place grows while the error rises."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem, self.place = problem, ""

    def within(self, step: str) -> "_MisfitError":
        self.place = step + self.place
        return self


@functools.cache
def _reader(kind: Hashable) -> _Reader:
    """What turns a plain value into one of this kind. Asking what an annotation means takes longer than all the rest of
    reading a record, so it is asked once."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record_reader(kind)
    if origin is tuple:
        return _tuple_reader(args[0])
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(a for a in args if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return functools.partial(_choice, args)
    expected = origin or kind
    assert isinstance(expected, type), kind
    return functools.partial(_leaf, expected)


def _record_reader(kind: type) -> _Reader:
    hints = typing.get_type_hints(kind)
    fields = {name: (hints[name], _reader(hints[name])) for name in _names(kind)}

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise _MisfitError(f"expected an object, got {value!r}")
        if unknown := value.keys() - fields.keys():
            raise _MisfitError(f"unknown field {min(unknown)!r}")
        given = {}
        for name, held in value.items():
            hint, restore = fields[name]
            # Most values are leaves of the right type, for which even a call is dear.
            if hint is type(held) and hint in _LEAVES:
                given[name] = held
                continue
            try:
                given[name] = restore(held)
            except _MisfitError as error:
                raise error.within(f".{name}") from error.__cause__
        try:
            return kind(**given)
        except TypeError as error:
            raise _MisfitError(str(error)) from error

    return read


def _tuple_reader(kind: Hashable) -> _Reader:
    restore = _reader(kind)

    def read(value: object) -> object:
        if not isinstance(value, list | tuple):
            raise _MisfitError(f"expected a list, got {value!r}")
        made = []
        for place, held in enumerate(value):
            try:
                made.append(restore(held))
            except _MisfitError as error:
                raise error.within(f"[{place}]") from error.__cause__
        return tuple(made)

    return read


def _choice(known: tuple[object, ...], value: object) -> object:
    if value not in known:
        raise _MisfitError(f"expected one of {', '.join(map(str, known))}, got {value!r}")
    return value


def _leaf(kind: type, value: object) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise _MisfitError(f"expected {kind.__name__}, got {value!r}")
    return value
