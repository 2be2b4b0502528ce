"""Prompt sets: of the embedded world, or from a file of JSON Lines or plain text.

Every prompt that cannot be used is refused by its line, before anything runs.
"""

import json
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

from cai.errors import InputError
from cai.models.tiny import world
from cai.records import Message, Prompt, from_dict, new_prompt

EMBEDDED = tuple(f"tiny/{split}" for split in world.SPLITS)


def embedded_prompts(name: str, limit: int | None) -> list[Prompt]:
    """One of the embedded world's sets. The sample is the same whatever the run's seed, so that runs compare."""
    split = name.removeprefix("tiny/")
    if limit is None:
        return world.prompts(split)
    per_class = -(-limit // len(world.CLASSES))
    found = world.prompts(split, per_class)
    by_class = [[p for p in found if p.source.endswith(f"/{label}")] for label in world.CLASSES]
    in_turn = (p for p in chain.from_iterable(zip_longest(*by_class)) if p is not None)
    return list(islice(in_turn, limit))


def read_prompts(path: Path, limit: int | None) -> list[Prompt]:
    """A file's prompts in its order, each once."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text", None, "save the file as UTF-8") from error
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", None, "it must be a readable file") from error
    is_json = path.suffix in (".jsonl", ".json", ".ndjson")
    found: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{path}:{number}"
            prompt = _json_prompt(line, place, path.name) if is_json else new_prompt(line.strip(), source=path.name)
            found.setdefault(prompt.id, prompt)
        if limit is not None and len(found) == limit:
            break
    return list(found.values())


def _json_prompt(line: str, place: str, source: str) -> Prompt:
    remedy = 'write {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
    try:
        row = json.loads(line)
    except ValueError:
        raise InputError(place, "is not JSON", line, remedy) from None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str) and row["prompt"].strip():
        return new_prompt(row["prompt"], source=source)
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise InputError(place, "has neither a 'prompt' text nor 'messages'", line, remedy)
    try:
        messages = tuple(from_dict(Message, _with_content(message)) for message in row["messages"])
    except ValueError as error:
        raise InputError(place, f"messages cannot be read ({error})", None, remedy) from None
    return new_prompt(_waiting(messages, place), source=source, tools=_tools(row.get("tools"), place))


def _with_content(message: object) -> object:
    """A message that only calls tools has no content in other people's files."""
    calls = isinstance(message, dict) and message.get("tool_calls") and message.get("content") is None
    return {**message, "content": ""} if calls and isinstance(message, dict) else message


def _tools(tools: object, place: str) -> tuple[dict[str, object], ...]:
    if tools is None:
        return ()
    named = isinstance(tools, list) and all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and isinstance(tool["function"].get("name"), str)
        for tool in tools
    )
    if not isinstance(tools, list) or not named:
        remedy = 'write {"tools": [{"type": "function", "function": {"name": "…", "parameters": {}}}]}'
        raise InputError(place, "tools must be a list of named functions", tools, remedy)
    return tuple(tools)


def _waiting(messages: Sequence[Message], place: str) -> tuple[Message, ...]:
    """The conversation, if it waits for an answer."""
    if not messages or not any(m.role == "user" and m.content.strip() for m in messages):
        raise InputError(place, "the conversation has no user message", None, "a prompt needs one")
    if messages[-1].role == "assistant":
        raise InputError(
            place, "the conversation ends with the assistant", None, "leave out what is to be answered anew"
        )
    return tuple(messages)
