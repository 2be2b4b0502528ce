"""An agent's actions as text: tool calls written in one way, whatever way a model writes them in.

Answers are texts from the model to the exported file, so what an agent does stands in its answer as it is written here,
and critic, reviser and judge read it there. Running a tool is nobody's business in this project.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.records import Message

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_BLOCK = re.compile(rf"{OPEN}(.*?)(?:{CLOSE}|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Actions:
    """A text whose calls are written as `call_text` does it; equal calls are equal texts."""

    text: str
    calls: tuple[str, ...] = ()
    words: str = ""
    """The text without its calls."""
    broken: str = ""
    """What is wrong with a call: then the text is as it came."""


def call_text(name: str, arguments: object) -> str:
    """A call as a line: keys in order, so that the same call is the same line."""
    told = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, sort_keys=True)
    return f"{OPEN}{told}{CLOSE}"


def said(message: Message) -> str:
    """What a message says and does."""
    return "\n".join([*([message.content] if message.content else []), *map(_call_of, message.tool_calls)])


def read_actions(text: str, tools: Sequence[Mapping[str, object]]) -> Actions:
    """The calls in a text, where tools are offered: in `<tool_call>` blocks, or bare JSON that is all of the text."""
    if not tools:
        return Actions(text, words=text)
    offered, calls = {_name_of(tool) for tool in tools}, []
    bare = _json(text)
    listed = bare if isinstance(bare, list) else [bare]
    if bare and all(isinstance(each, dict) and each.get("name") in offered for each in listed):
        found = [json.dumps(each) for each in listed]
    else:
        if text.count(OPEN) != text.count(CLOSE):
            return Actions(text, broken="a call does not end")
        found = _BLOCK.findall(text)
    for block in found:
        name, arguments = _parts(_json(block))
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return Actions(text, broken=f"it is no JSON object with a name and arguments: {block.strip()[:80]}")
        if name not in offered:
            return Actions(text, broken=f"there is no tool {name!r}; offered are {', '.join(sorted(offered))}")
        calls.append(call_text(name, arguments))
    if OPEN not in text:
        return Actions("\n".join(calls) if calls else text, tuple(calls), "" if calls else text)
    lines = iter(calls)
    return Actions(_BLOCK.sub(lambda _: next(lines), text), tuple(calls), _BLOCK.sub("", text).strip())


def _call_of(call: Mapping[str, object]) -> str:
    name, arguments = _parts(call)
    return call_text(str(name), arguments)


def _parts(call: object) -> tuple[object, object]:
    """Name and arguments of a call, with or without the `function` around them; arguments may be JSON in a text."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping):
        return None, None
    arguments = inner.get("arguments", inner.get("parameters", {}))
    read = _json(arguments) if isinstance(arguments, str) else arguments
    return inner.get("name"), arguments if read is None else read


def _name_of(tool: Mapping[str, object]) -> str:
    inner = tool.get("function", tool)
    return str(inner.get("name")) if isinstance(inner, Mapping) else ""


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
