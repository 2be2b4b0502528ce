"""`--set a.b=c`: one value of a pipeline file replaced from the command line.

Steps are keys, or positions in a list, from 0 as in `stages.0.revise.rounds=3`. Whether a key exists is not decided
here: the changed document is validated like any other, so a wrong key gets the same "did you mean".
"""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from cai.errors import InputError
from cai.strict_yaml import Document, parse_yaml


def with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    for override in overrides:
        path, equals, text = override.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(steps):
            raise InputError(
                f"--set {override}", "must look like a.b=value", None, "as in --set stages.0.revise.rounds=3"
            )
        value = parse_yaml(text, f"--set {override}").data
        document = replace(document, data=_with(document.data, steps, value, override))
    return document


def _with(data: object, steps: Sequence[str], value: object, override: str) -> object:
    """A copy of the data in which the steps lead to the value."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(data, list):
        i = _position(step, len(data), override)
        return [*data[:i], _with(data[i], rest, value, override), *data[i + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"--set {override}", f"'{step}' has nothing to stand in", data, "leave that step out")
    _check_stage(data, step, override)
    return {**data, step: _with(data.get(step), rest, value, override)}


def _position(step: str, length: int, override: str) -> int:
    if not step.isdecimal() or int(step) >= length:
        raise InputError(f"--set {override}", f"must name a position from 0 to {length - 1} here", step, "count from 0")
    return int(step)


def _check_stage(data: dict[str, object], step: str, override: str) -> None:
    """A stage entry has one key: naming another would add a second one, which nobody means."""
    inside = override.partition("=")[0].split(".")
    if inside[0] == "stages" and len(inside) > 2 and inside[2] == step and step not in data and len(data) == 1:
        kind = next(iter(data))
        close = difflib.get_close_matches(step, data, n=1)
        remedy = f"did you mean '{kind}'?" if close else f"it is a '{kind}' stage"
        raise InputError(f"--set {override}", f"stages.{inside[1]} has no '{step}'", None, remedy)
