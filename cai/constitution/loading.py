"""Reading a constitution's file: from checked YAML to values, refusing by line what could not be used.

What is refused here can mean nothing, or two things. What is merely unwise is told by `lint`.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from semver import Version

from cai.constitution.layout import ConstitutionFile, ExampleEntries, PrincipleEntry, TestEntry
from cai.constitution.model import (
    TEXTS,
    ComparisonExample,
    Constitution,
    CritiqueExample,
    Principle,
    PrincipleTest,
    nearest,
)
from cai.errors import InputError
from cai.strict_yaml import Document, parse_yaml, read_yaml, validated

MAX_ID = 64
MAX_TITLE = 200
MAX_TEXT = 2_000
MAX_ANSWER = 8_000
MAX_WEIGHT = 1_000_000.0

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Line feed and tab are text; every other control character is an accident or an attack.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")

TEST_TEXTS = ("prompt", "better", "worse")

_Keys = tuple[str | int, ...]


def read_constitution(path: Path) -> Constitution:
    return _constitution(read_yaml(path))


def parse_constitution(text: str, name: str) -> Constitution:
    """The constitution in this text; `name` stands in the errors."""
    return _constitution(parse_yaml(text, name))


def is_id(text: str) -> bool:
    return len(text) <= MAX_ID and _ID.fullmatch(text) is not None


def _constitution(document: Document) -> Constitution:
    read = validated(document, ConstitutionFile)
    _check_id(document, ("id",), "the constitution's id", read.id)
    if len(read.version) > MAX_ID or not Version.is_valid(read.version):
        place = document.place("version")
        raise InputError(place, "version must be a semantic version", read.version, "write three numbers, like 1.2.0")
    if not read.principles:
        raise InputError(document.place("principles"), "there are no principles", None, "write at least one")
    principles = [_principle(document, i, entry) for i, entry in enumerate(read.principles)]
    _check_no_id_twice(document, principles)
    ids = [principle.id for principle in principles]
    return Constitution(
        id=read.id,
        version=read.version,
        title=_text(document, ("title",), "the constitution", read.title, MAX_TITLE),
        principles=tuple(sorted(principles, key=lambda principle: principle.id)),
        critiques=_critiques(document, read.examples, ids),
        comparisons=_comparisons(document, read.examples, ids),
        path=document.name,
        lines={n: _line(document, (n,)) for n in ConstitutionFile.model_fields if (n,) in document.marks},
    )


def _principle(document: Document, i: int, entry: PrincipleEntry) -> Principle:
    at: _Keys = ("principles", i)
    _check_id(document, (*at, "id"), "a principle's id", entry.id)
    owner = f"principle '{entry.id}'"
    texts = {name: _text(document, (*at, name), owner, getattr(entry, name), MAX_TEXT) for name in TEXTS}
    principle = Principle(
        **texts,
        id=entry.id,
        weight=_weight(document, (*at, "weight"), owner, entry.weight),
        tests=tuple(_test(document, (*at, "tests", t), owner, test) for t, test in enumerate(entry.tests)),
        line=_line(document, at),
        lines={n: _line(document, (*at, n)) for n in PrincipleEntry.model_fields if (*at, n) in document.marks},
    )
    if not principle.serves("revise") and not principle.serves("judge"):
        raise InputError(
            document.place(*at),
            f"{owner} could never be used",
            None,
            "write a preference, or a critique and a revision, or all three",
        )
    return principle


def _test(document: Document, at: _Keys, owner: str, entry: TestEntry) -> PrincipleTest:
    texts = {n: _needed(document, (*at, n), f"{owner}: a test's", getattr(entry, n)) for n in TEST_TEXTS}
    return PrincipleTest(**texts, line=_line(document, at))


def _critiques(document: Document, examples: ExampleEntries, ids: Sequence[str]) -> tuple[CritiqueExample, ...]:
    found = []
    for i, entry in enumerate(examples.critiques):
        at: _Keys = ("examples", "critiques", i)
        _check_known(document, (*at, "principle"), entry.principle, ids)
        names = ("prompt", "answer", "critique", "revision")
        texts = {n: _needed(document, (*at, n), "the example's", getattr(entry, n)) for n in names}
        found.append(CritiqueExample(entry.principle, **texts, line=_line(document, at)))
    return tuple(found)


def _comparisons(document: Document, examples: ExampleEntries, ids: Sequence[str]) -> tuple[ComparisonExample, ...]:
    found = []
    for i, entry in enumerate(examples.comparisons):
        at: _Keys = ("examples", "comparisons", i)
        if entry.principle:
            _check_known(document, (*at, "principle"), entry.principle, ids)
        texts = {n: _needed(document, (*at, n), "the example's", getattr(entry, n)) for n in TEST_TEXTS}
        found.append(ComparisonExample(entry.principle, **texts, line=_line(document, at)))
    return tuple(found)


def _check_id(document: Document, at: _Keys, what: str, name: str) -> None:
    if not is_id(name):
        remedy = f"use at most {MAX_ID} lower-case letters, digits and single hyphens, like 'no-harm'"
        raise InputError(document.place(*at), f"{what} has another form", name, remedy)


def _check_no_id_twice(document: Document, principles: Sequence[Principle]) -> None:
    first: dict[str, Principle] = {}
    for i, principle in enumerate(principles):
        if principle.id in first:
            raise InputError(
                document.place("principles", i, "id"),
                f"principle '{principle.id}' stands here twice",
                None,
                f"line {first[principle.id].line} has it too; rename or remove one",
            )
        first[principle.id] = principle


def _check_known(document: Document, at: _Keys, name: str, ids: Sequence[str]) -> None:
    if name not in ids:
        raise InputError(
            document.place(*at), "the example names a principle that is not here", name, nearest(name, ids)
        )


def _weight(document: Document, at: _Keys, owner: str, weight: float) -> float:
    place, written = document.place(*at), _written(document, at)
    # Pydantic reads `true` as 1; nobody who writes it means that.
    if isinstance(written, bool) or not math.isfinite(weight):
        raise InputError(place, f"{owner}: weight must be a number", written, "write one like 1 or 2.5")
    if weight <= 0:
        raise InputError(place, f"{owner}: weight must be positive", written, "remove it or set it above 0")
    if weight > MAX_WEIGHT:
        raise InputError(
            place, f"{owner}: weight must be at most {MAX_WEIGHT:.0f}", written, "only the proportions matter"
        )
    return weight


def _written(document: Document, at: _Keys) -> object:
    value = document.data
    for key in at:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key]
    return value


def _needed(document: Document, at: _Keys, owner: str, text: str) -> str:
    kept = _text(document, at, owner, text, MAX_ANSWER)
    if not kept:
        raise InputError(document.place(*at), f"{owner} {at[-1]} is empty", None, "write it or remove the entry")
    return kept


def _text(document: Document, at: _Keys, owner: str, text: str, limit: int) -> str:
    """The text without the blank space around it, which YAML's block styles add and no model should see."""
    kept = text.strip()
    if found := _CONTROL.search(kept):
        raise InputError(
            document.place(*at), f"{owner} {at[-1]} holds a control character", repr(found[0]), "remove it"
        )
    if len(kept) > limit:
        raise InputError(
            document.place(*at), f"{owner} {at[-1]} has more than {limit} characters", len(kept), "say it in fewer"
        )
    return kept


def _line(document: Document, at: _Keys) -> int:
    return document.marks[at][0]
