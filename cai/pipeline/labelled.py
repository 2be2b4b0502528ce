"""Pairs of which the better answer is known: of the embedded world, or from a file in any layout that holds pairs."""

from dataclasses import dataclass, field
from pathlib import Path

from cai.constitution.model import Constitution, Principle
from cai.errors import InputError
from cai.feedback.judge_card import STAGE, Known
from cai.feedback.pairs import CandidatePair
from cai.models.tiny import phrasing, world
from cai.models.tiny.oracle import judge_pairs
from cai.records import Preference, Reject
from cai.store.formats.importing import read_rows
from cai.store.formats.labels import LabelledPair, labelled_rows

_REMEDY = "name a file of pairs, as `cai data import` reads them"


@dataclass(frozen=True, slots=True)
class LabelledSet:
    pairs: list[Known] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def labelled_set(source: str, file: Path | None, limit: int, constitution: Constitution) -> LabelledSet:
    """What `source` names: a split of the embedded world (`tiny/tune`), or else this file."""
    if file is not None:
        return labelled_pairs(file, limit)
    return embedded_pairs(source.removeprefix("tiny/"), limit, constitution)


def embedded_pairs(split: str, limit: int, constitution: Constitution | None) -> LabelledSet:
    """Each pair is about one family of principles, and is judged by those of the constitution that are about it."""
    found = LabelledSet()
    for pair in judge_pairs(split, limit):
        about = principles_about(constitution, pair.family) if constitution else ()
        names = tuple(principle.id for principle in about)
        known = Known(pair.prompt, pair.better, pair.worse, pair.family, names)
        if names or constitution is None:
            found.pairs.append(known)
        else:
            detail = f"no preference text of the constitution is about {pair.family}"
            found.rejects.append(Reject(known.id, STAGE, "no principle about it", detail))
    return found


def labelled_pairs(path: Path, limit: int, subset: str = "") -> LabelledSet:
    """The pairs of a file, up to the limit; every row before that which is none is a reject."""
    found = LabelledSet()
    seen: set[str] = set()
    for number, row in enumerate(labelled_rows(path), 1):
        if isinstance(row, Reject):
            found.rejects.append(Reject(row.id, STAGE, row.reason, row.detail))
        elif (known := _known(row, subset)).id in seen:
            found.rejects.append(_twice(known.id, STAGE, number, path))
        else:
            seen.add(known.id)
            found.pairs.append(known)
        if len(found.pairs) == limit:
            break
    if not found.pairs:
        first = f"; the first: {found.rejects[0].detail}" if found.rejects else ""
        problem = f"holds no pair of which the better answer is known{first}"
        raise InputError(str(path), problem, None, _REMEDY)
    return found


def refuse_without_pairs(path: Path) -> None:
    """Reads no further than to the first pair."""
    if not any(isinstance(row, Preference) for row in read_rows(path)):
        raise InputError(str(path), "holds no pair of answers", None, _REMEDY)


def imported(path: Path) -> tuple[list[Preference], list[Reject]]:
    """A file's pairs, whatever their label says, and every row that is none or comes again."""
    pairs: list[Preference] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, Preference):
            pair_id = CandidatePair(row.prompt, row.chosen, row.rejected, "").id
            if pair_id in seen:
                rejects.append(_twice(pair_id, "prefer", number, path))
            else:
                seen.add(pair_id)
                pairs.append(row)
        elif isinstance(row, Reject):
            rejects.append(Reject(row.id, "prefer", row.reason, row.detail))
        else:
            rejects.append(Reject(row.id, "prefer", "not a pair", f"row {number} of {path.name} holds one answer"))
    return pairs, rejects


def principles_about(constitution: Constitution, family: str) -> tuple[Principle, ...]:
    """The principles whose preference is one of the embedded world's ways to ask for this; those it has no words for
    have a say on everything."""
    known = {f: {t for split in world.SPLITS for t in phrasing.preferences(f, split)} for f in phrasing.FAMILIES}
    foreign = set().union(*known.values())
    judging = constitution.for_use("judge")
    return tuple(p for p in judging if p.preference in known[family] or p.preference not in foreign)


def _twice(pair_id: str, stage: str, number: int, path: Path) -> Reject:
    """Looked for in the whole file: chunks are too short to see it, and must not decide it."""
    return Reject(pair_id, stage, "duplicate input", f"row {number} of {path.name}: the same two answers stand earlier")


def _known(row: LabelledPair, subset: str) -> Known:
    pair, told = row.pair, (row.better_by, row.worse_by, row.people)
    return Known(pair.prompt, pair.chosen, pair.rejected, row.subset or subset, (), *told)
