"""Pairs with a label to trust: a row of any layout that holds pairs, and what some files say beside it.

Beside the two answers a row may name its `subset` (or category), the models that wrote them (`chosen_model`,
`rejected_model`), and what several people said (`people`: a list of "chosen" and "rejected").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cai.records import Preference, Reject
from cai.store.formats.importing import converted
from cai.store.formats.layouts import adapted_rows, detect, layout_named
from cai.store.formats.rows import Columns

_SUBSET = ("subset", "category", "task")


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """`chosen` is the answer that is known to be better."""

    pair: Preference
    subset: str = ""
    better_by: str = ""
    worse_by: str = ""
    people: tuple[bool, ...] = ()


def labelled_rows(path: Path) -> Iterator[LabelledPair | Reject]:
    """One value for each row of the file: the pair, or why it is none. A tie labels nothing."""
    name = detect(path).name
    for row in adapted_rows(path, name):
        made = converted(row, layout_named(name).read, path)
        if isinstance(made, Reject):
            yield made
        elif not isinstance(made, Preference):
            yield Reject(made.id, "import", "not a pair", f"{path.name}:{row.number}: holds one answer, not two")
        elif made.kind != "preferred":
            yield Reject(made.id, "import", f"labelled a {made.kind}", f"{path.name}:{row.number}: neither is better")
        else:
            subset = next((_text(row.value, column) for column in _SUBSET if _text(row.value, column)), "")
            chosen_by, rejected_by = (_text(row.value, f"{side}_model") for side in ("chosen", "rejected"))
            yield LabelledPair(made, subset, chosen_by, rejected_by, _people(row.value))


def _text(row: Columns, column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def _people(row: Columns) -> tuple[bool, ...]:
    said = row.get("people")
    known = said if isinstance(said, list) else []
    return tuple(each == "chosen" for each in known if each in ("chosen", "rejected"))
