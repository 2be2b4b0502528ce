"""YAML with positions, and nothing in it that can surprise.

Every plain or quoted scalar stays text, except plain `null`, `~` and nothing (None) and plain `true` and `false`: so
version 1.10 stays "1.10", and pydantic turns text into numbers where a number belongs. Anchors, aliases, tags,
duplicate keys, several documents, and whatever is larger or deeper than a person writes are refused by line and column.
What the keys mean is said by the pydantic models that `validated` is given. Nothing here writes YAML.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cai.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")
Key = str | int

MAX_BYTES = 256 * 1024
MAX_DEPTH = 10

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Document:
    """Parsed YAML: plain dicts, lists, texts, bools and None, and where each of them stands."""

    name: str
    data: object
    marks: dict[tuple[Key, ...], tuple[int, int]] = field(default_factory=dict, repr=False)

    def place(self, *keys: Key) -> str:
        """`file:line:column` of the value at these keys, or of the nearest thing around it that is there."""
        path: tuple[Key, ...] = ()
        for key in keys:
            # A step that is not in the file is skipped: pydantic puts the names of union members between the keys.
            if (*path, key) in self.marks:
                path = (*path, key)
        if path not in self.marks:
            return self.name
        line, column = self.marks[path]
        return f"{self.name}:{line}:{column}"


def read_yaml(path: Path) -> Document:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(str(path), "there is no such file", None, "check the path") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", None, "it must be a readable file") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{path}:{line}:{column}", "is not UTF-8 text", content[error.start : error.end], "save the file as UTF-8"
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """The one document in this text; `name` stands in the errors."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise InputError(name, f"is larger than {MAX_BYTES} bytes", size, "split it, or move data to JSON Lines")
    marks: dict[tuple[Key, ...], tuple[int, int]] = {}
    try:
        data = _Builder(name, iter(YAML(typ="safe", pure=True).parse(text)), marks).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        told = ", ".join(part for part in (error.context, error.problem) if part) or "is not YAML"
        raise InputError(place, told, None, "correct the YAML there") from None
    except YAMLError as error:
        position = getattr(error, "position", None)
        place = name
        if isinstance(position, int):
            line = text.count("\n", 0, position) + 1
            place = f"{name}:{line}:{position - text.rfind(chr(10), 0, position)}"
        reason = getattr(error, "reason", "is not YAML")
        raise InputError(place, str(reason), None, "correct the YAML there") from None
    return Document(name, data, marks)


def validated(document: Document, kind: type[M], at: tuple[Key, ...] = ()) -> M:
    """What stands at these keys as a `kind`. Of several errors the most telling one is raised: an unknown key first."""
    from pydantic import ValidationError

    value: Any = document.data
    for key in at:
        value = value[key]
    if value is None:
        raise InputError(document.place(*at), "there is nothing here", None, f"write {_listed(_field_names([kind]))}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        unknown = [d for d in details if d["type"] in _UNKNOWN]
        raise _told((unknown or details)[0], document, kind, at) from None


class _Builder:
    """Turns the parser's events into values, one event ahead, and notes where each key and item starts."""

    def __init__(self, name: str, events: Iterator[Any], marks: dict[tuple[Key, ...], tuple[int, int]]) -> None:
        self.name, self.events, self.marks = name, events, marks

    def document(self) -> object:
        data: object = None
        documents = 0
        for event in self.events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise self.error(event, "a second document starts here", "keep one document in a file")
                first = next(self.events)
                self.marks[()] = _position(first)
                data = self.value(first, ())
        return data

    def value(self, event: Any, path: tuple[Key, ...]) -> object:
        kind = type(event).__name__
        if kind == "AliasEvent":
            raise self.error(event, "aliases are not allowed", "write the value out", f"*{event.anchor}")
        if event.anchor is not None:
            raise self.error(event, "anchors are not allowed", "remove it", f"&{event.anchor}")
        if event.tag is not None:
            raise self.error(event, "tags are not allowed", "remove it", str(event.tag))
        if kind == "ScalarEvent":
            return _scalar(event)
        if len(path) >= MAX_DEPTH:
            raise self.error(event, f"is nested more than {MAX_DEPTH} levels deep", "flatten it")
        return self.mapping(path) if kind == "MappingStartEvent" else self.sequence(path)

    def mapping(self, path: tuple[Key, ...]) -> dict[str, object]:
        found: dict[str, object] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key = self.key(event, path)
            here = (*path, key)
            if key in found:
                line = self.marks[here][0]
                raise self.error(event, f"the key '{key}' stands here twice", f"line {line} has it too; keep one")
            self.marks[here] = _position(event)
            found[key] = self.value(next(self.events), here)
        return found

    def key(self, event: Any, path: tuple[Key, ...]) -> str:
        if type(event).__name__ in ("MappingStartEvent", "SequenceStartEvent"):
            raise self.error(event, "a key must be plain text", "put a name before the colon")
        self.value(event, path)
        text = str(event.value)
        if not text:
            raise self.error(event, "a key is missing", "put a name before the colon")
        return text

    def sequence(self, path: tuple[Key, ...]) -> list[object]:
        found: list[object] = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            here = (*path, len(found))
            self.marks[here] = _position(event)
            found.append(self.value(event, here))
        return found

    def error(self, event: Any, problem: str, remedy: str, value: object = None) -> InputError:
        line, column = _position(event)
        return InputError(f"{self.name}:{line}:{column}", problem, value, remedy)


def _scalar(event: Any) -> object:
    plain = not event.style
    if plain and event.value in _NULLS:
        return None
    if plain and event.value in _BOOLS:
        return _BOOLS[event.value]
    return str(event.value)


def _position(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_PLAIN = {
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "dataclass_type": "must be a mapping of names to values",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "value_error": "{error}",
}


def _told(detail: "ErrorDetails", document: Document, kind: type, at: tuple[Key, ...]) -> InputError:
    loc, sort, value = detail["loc"], detail["type"], detail["input"]
    place = document.place(*at, *loc)
    if sort in _UNKNOWN:
        names = _field_names(_kinds_at(kind, loc[:-1]))
        return InputError(place, f"unknown key '{loc[-1]}'", None, _nearest(str(loc[-1]), names) or _known(names))
    plain = _PLAIN.get(sort)
    problem = plain.format_map(detail.get("ctx", {})) if plain else detail["msg"][:1].lower() + detail["msg"][1:]
    if where := _dotted((*at, *loc)):
        problem = f"{where} {problem}" if sort in _PLAIN and sort != "value_error" else f"{where}: {problem}"
    if sort == "missing":
        return InputError(place, problem, None, "add it")
    shown = None if isinstance(value, dict | list) and sort == "value_error" else value
    if value is None:
        shown = "nothing"
    remedy = ""
    if sort == "string_type" and isinstance(value, bool):
        remedy = "put it in quotes if text is meant"
    if sort == "literal_error" and isinstance(value, str):
        remedy = _nearest(value, detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    return InputError(place, problem, shown, remedy)


def _nearest(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean '{close[0]}'?" if close else ""


def _known(names: list[str]) -> str:
    return f"known here: {_listed(names)}" if names else "remove it"


def _listed(names: list[str]) -> str:
    return ", ".join(names)


def _dotted(loc: tuple[Key, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in loc).lstrip(".")


def _kinds_at(kind: object, loc: tuple[Key, ...]) -> list[object]:
    """The types that may stand at this place: a step that no type knows is the name of a union's member."""
    kinds = _members(kind)
    for key in loc:
        below = [k for each in kinds for k in _members(_below(each, key))]
        if isinstance(key, str) and not below:
            named = [k for k in kinds if getattr(k, "__name__", "") == key]
            below = named or kinds
        kinds = below
    return kinds


def _below(kind: object, key: Key) -> object:
    fields = _fields(kind)
    if isinstance(key, str) and key in fields:
        return fields[key]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and args and isinstance(key, str):
        return args[1]
    if origin in (list, tuple) and args and isinstance(key, int):
        return args[key] if origin is tuple and Ellipsis not in args and key < len(args) else args[0]
    return None


def _members(kind: object) -> list[object]:
    """A type without its `Annotated`, and a union as its members."""
    if kind is None or kind is type(None):
        return []
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _members(args[0])
    if origin in (typing.Union, types.UnionType):
        return [member for arg in args for member in _members(arg)]
    return [kind]


def _fields(kind: object) -> dict[str, object]:
    """Field names, as they are written in a file, and their types, of a pydantic model or a dataclass."""
    found: dict[str, Any] = getattr(kind, "model_fields", {}) if isinstance(kind, type) else {}
    if found:
        return {info.alias or name: info.annotation for name, info in found.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {f.name: hints[f.name] for f in dataclasses.fields(kind)}
    return {}


def _field_names(kinds: list[Any]) -> list[str]:
    return sorted({name for kind in kinds for name in _fields(kind)})
