"""`repeat` in a pipeline file: stages written once and done several times, for alignment that goes round and round.

    - repeat: {times: 3, stages: [{prefer: {pairs: samples, judge: newest}}, {dpo: {pairs: new}}]}

It is written out before anything else looks at the stages, so that a stage of a round is a stage like any other.
"""

from dataclasses import replace

from cai.errors import InputError
from cai.strict_yaml import Document, Key

MOST = 20
_REMEDY = "write it as in repeat: {times: 2, stages: [{prefer: {pairs: samples}}, {dpo: {pairs: new}}]}"


def written_out(document: Document) -> Document:
    """The same with every `repeat` replaced by its stages, so many times; errors still name the lines of the file."""
    data = document.data
    entries = data.get("stages") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not any(_is_repeat(entry) for entry in entries):
        return document
    assert isinstance(data, dict)
    stages: list[object] = []
    origins: list[tuple[Key, ...]] = []
    for i, entry in enumerate(entries):
        if not _is_repeat(entry):
            stages.append(entry)
            origins.append(("stages", i))
            continue
        inner = _inner(document, i, entry["repeat"])
        times = _times(document, i, entry["repeat"])
        for _ in range(times):
            stages += inner
            origins += [("stages", i, "repeat", "stages", k) for k in range(len(inner))]
    moved = {key: mark for key, mark in document.marks.items() if key[:1] != ("stages",) or len(key) == 1}
    for j, origin in enumerate(origins):
        for key, mark in document.marks.items():
            if key[: len(origin)] == origin:
                moved[("stages", j, *key[len(origin) :])] = mark
    return replace(document, data={**data, "stages": stages}, marks=moved)


def _is_repeat(entry: object) -> bool:
    return isinstance(entry, dict) and list(entry) == ["repeat"]


def _inner(document: Document, i: int, settings: object) -> list[object]:
    place = document.place("stages", i, "repeat")
    if not isinstance(settings, dict) or set(settings) != {"times", "stages"}:
        raise InputError(place, "repeat needs 'times' and 'stages', and nothing else", settings, _REMEDY)
    inner = settings["stages"]
    if not isinstance(inner, list) or not inner:
        raise InputError(document.place("stages", i, "repeat", "stages"), "repeat has no stages", inner, _REMEDY)
    if any(_is_repeat(entry) for entry in inner):
        raise InputError(place, "a repeat cannot stand in a repeat", None, "write the inner stages out")
    return inner


def _times(document: Document, i: int, settings: dict[str, object]) -> int:
    told = str(settings["times"])
    if not told.isdigit() or not 1 <= int(told) <= MOST:
        place = document.place("stages", i, "repeat", "times")
        raise InputError(place, f"times must be a number from 1 to {MOST}", settings["times"], _REMEDY)
    return int(told)
