"""Where a record comes from: from a preference back to its prompt, principles, models and seed, as a tree of facts.

A record is named by its id, or by the beginning of it. What is told stands in the stage folders alone; how a tree is
shown is the command line's and the pages' business.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cai.errors import InputError
from cai.journal import read_lines
from cai.manifest import Manifest, read_manifest
from cai.records import Lineage, Preference, Prompt, Revision, Round, Verdict, from_line
from cai.store.run_folder import stage_folders

SHORTEST = 4
FILTER, JUDGE = "filter", "judge"
_SHOWN = ("shown first", "shown second")
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Fact:
    """A label, its value, and what is to be known about that."""

    label: str
    value: str = ""
    children: tuple["Fact", ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a stage's records or rejects. `record` is None for the plain rows of other stages."""

    id: str
    stage: "StageFacts"
    row: Row
    record: Revision | Preference | None
    rejected: bool


@dataclass(frozen=True, slots=True)
class StageFacts:
    folder: Path
    kind: str
    manifest: Manifest | None

    @property
    def name(self) -> str:
        return self.folder.name.rpartition("-")[0]

    def fact(self, *keys: str) -> object:
        """A fact of the manifest, or None where an unfinished stage does not know it yet."""
        value: object = self.manifest.facts if self.manifest else None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def trace(folder: Path, record_id: str) -> Fact:
    """The tree of one record. An id that nothing or several things answer to is refused."""
    if len(record_id) < SHORTEST:
        raise InputError(
            "id", f"must have at least {SHORTEST} characters", record_id, "copy more of it from the record"
        )
    entries = [entry for stage in _stages(folder) for entry in _entries(stage)]
    found = [
        entry for entry in entries if entry.id.startswith(record_id) or _prompt_id(entry.row).startswith(record_id)
    ]
    ids = dict.fromkeys(
        name for entry in found for name in (entry.id, _prompt_id(entry.row)) if name.startswith(record_id)
    )
    if not ids:
        raise InputError(str(folder), "no record has this id", record_id, "take one from a records.jsonl")
    if len(ids) > 1:
        raise InputError(
            str(folder), f"{len(ids)} ids begin like this", record_id, f"say more: {', '.join(list(ids)[:4])}"
        )
    return _tree(next(iter(ids)), found, entries)


def _tree(record_id: str, found: list[Entry], entries: list[Entry]) -> Fact:
    """Told by what knows most of it: a record, else a row or a reject, else everything about the prompt."""
    own = [entry for entry in found if entry.id == record_id]
    for entry in own:
        if isinstance(entry.record, Preference):
            return _preference(entry, entry.record, entries)
        if isinstance(entry.record, Revision):
            return _revision(entry, entry.record, entries)
    if own and not any(_prompt_id(entry.row) == record_id for entry in found):
        return Fact("row", record_id, tuple(_use(entry) for entry in own) + _origin_of_row(own, entries))
    return Fact("prompt", record_id, tuple(_mention(entry) for entry in found))


def _preference(entry: Entry, record: Preference, entries: list[Entry]) -> Fact:
    verdicts = tuple(_verdict(entry.stage, verdict) for verdict in record.verdicts)
    guarded = record.lineage.judged_by.startswith("guard")
    why = record.lineage.judged_by if guarded else "the other answer says nothing"
    judged = f"p {record.p_chosen:.3f}" if verdicts else f"decided without the judge: {why}"
    return Fact(
        "preference",
        entry.id,
        (
            Fact("kind", record.kind),
            _prompt(record.prompt),
            Fact("chosen", record.chosen),
            Fact("rejected", record.rejected),
            Fact("judged", judged, verdicts),
            _pair_origin(record, entries),
            *_made_by(entry.stage, record.lineage),
            *_uses(entry, entries),
        ),
    )


def _revision(entry: Entry, record: Revision, entries: list[Entry]) -> Fact:
    return Fact("revision", entry.id, (*_revision_story(entry, record), *_uses(entry, entries)))


def _revision_story(entry: Entry, record: Revision) -> tuple[Fact, ...]:
    rounds = (_round(entry.stage, number, turn) for number, turn in enumerate(record.rounds, 1))
    return (
        _prompt(record.prompt),
        Fact("first answer", record.initial),
        *rounds,
        Fact("final answer", record.final),
        *_made_by(entry.stage, record.lineage),
    )


def _round(stage: StageFacts, number: int, turn: Round) -> Fact:
    asked = tuple(Fact(f"asks for a {n}", _principle(stage, turn.principle_id, n)) for n in ("critique", "revision"))
    told = (
        Fact("principle", turn.principle_id, asked),
        Fact("critique", turn.critique),
        Fact("revision", turn.revision if turn.changed else "left as it was"),
    )
    return Fact(f"round {number}", "changed" if turn.changed else "null edit", told)


def _verdict(stage: StageFacts, verdict: Verdict) -> Fact:
    orders = f"p {verdict.p:.3f} (shown first {verdict.p_first:.3f}, shown second {verdict.p_first_swapped:.3f})"
    asks = Fact("asks", _principle(stage, verdict.principle_id, "preference"))
    half = len(verdict.reasons) // 2
    thoughts = (Fact(f"thought, {_SHOWN[i >= half]}", text) for i, text in enumerate(verdict.reasons))
    return Fact(verdict.principle_id, orders, (asks, *thoughts))


def _pair_origin(record: Preference, entries: list[Entry]) -> Fact:
    source, _, name = record.origin.partition(":")
    if source == "samples":
        return Fact("pair", f"answers {name.replace(',', ' and ')} sampled for the prompt")
    if source == "imported":
        return Fact("pair", f"brought along from a file, where it was {name}")
    for entry in entries:
        if entry.id == name and isinstance(entry.record, Revision):
            return Fact("pair", f"first answer against revision {name}", _revision_story(entry, entry.record)[1:])
    return Fact("pair", record.origin)


def _made_by(stage: StageFacts, lineage: Lineage) -> tuple[Fact, ...]:
    constitution = (stage.fact("constitution", key) for key in ("id", "version"))
    named = " ".join(str(part) for part in constitution if part)
    roles = (("answerer", lineage.answerer), ("critic", lineage.critic), ("judge", lineage.judge))
    read = (Fact("judge read by", lineage.judged_by),) if lineage.judged_by not in ("", "log-probabilities") else ()
    return (
        *(Fact(role, _model(stage, fingerprint)) for role, fingerprint in roles if fingerprint),
        *read,
        Fact("constitution", f"{named} ({lineage.constitution[:12]})".strip()),
        Fact("frames", lineage.frames[:12]),
        Fact("seed", str(lineage.seed)),
        Fact("stage", stage.folder.name),
    )


def _model(stage: StageFacts, fingerprint: str) -> str:
    name = stage.fact("models", fingerprint)
    return f"{name} ({fingerprint[:12]})" if name else fingerprint[:12]


def _principle(stage: StageFacts, principle_id: str, text: str) -> str:
    return str(stage.fact("constitution", "principles", principle_id, text) or "unknown: the stage is not finished")


def _prompt(prompt: Prompt) -> Fact:
    turns = tuple(Fact(message.role, message.content) for message in prompt.messages)
    return Fact("prompt", f"{prompt.id}" + (f" from {prompt.source}" if prompt.source else ""), turns)


def _uses(entry: Entry, entries: list[Entry]) -> tuple[Fact, ...]:
    """What later stages made of a record."""
    origin, later = f"revisions:{entry.id}", [e for e in entries if e.stage is not entry.stage]
    links = ((e, (e.id, e.row.get("revision_id"), e.row.get("origin"))) for e in later)
    return tuple(_use(e) for e, names in links if entry.id in names or origin in names)


def _use(entry: Entry) -> Fact:
    if entry.rejected:
        return Fact(f"left out of {entry.stage.name}", f"{entry.row['reason']}: {entry.row['detail']}")
    if entry.stage.kind == FILTER:
        return Fact(f"kept by {entry.stage.name}", entry.id)
    if isinstance(entry.record, Preference):
        return Fact(f"judged in {entry.stage.name}", f"{entry.record.kind}, p {entry.record.p_chosen:.3f} ({entry.id})")
    if entry.stage.kind == JUDGE:
        return Fact(f"the judge was measured on it in {entry.stage.name}", _measured(entry.row))
    kind = f" as {entry.row['kind']}" if "kind" in entry.row else ""
    return Fact(f"trained on in {entry.stage.name}", entry.id + kind)


def _measured(row: Row) -> str:
    orders = f"shown first {row['p_first']:.3f}, shown second {row['p_second']:.3f}"
    return f"p {row['p']:.3f} for the answer known to be better ({orders}), {row['kind']}"


def _origin_of_row(own: list[Entry], entries: list[Entry]) -> tuple[Fact, ...]:
    """The revision that a training row was taken from."""
    names = {entry.row.get("revision_id") for entry in own} - {None}
    sources = (entry for entry in entries if entry.id in names and isinstance(entry.record, Revision))
    return tuple(Fact("revision", e.id, _revision_story(e, cast(Revision, e.record))) for e in sources)


def _mention(entry: Entry) -> Fact:
    """A record as one of several about a prompt."""
    if entry.rejected:
        return _use(entry)
    item = entry.row.get("item")
    if isinstance(item, dict):
        return Fact(f"{entry.row['model']} in {entry.stage.name}", str(item["reply"]))
    if isinstance(entry.record, Revision) and entry.stage.kind != FILTER:
        return Fact(f"revised in {entry.stage.name}", f"{entry.record.final} ({entry.id})")
    return _use(entry)


def _stages(folder: Path) -> list[StageFacts]:
    paths = stage_folders(folder)
    if not paths:
        raise InputError(str(folder), "holds no stage", None, "name a folder that `cai run` made")
    return [StageFacts(path, path.name.split("-")[1], read_manifest(path)) for path in paths]


def _entries(stage: StageFacts) -> Iterator[Entry]:
    for stream in ("records", "rejects"):
        path = stage.folder / f"{stream}.jsonl"
        for line in read_lines(path) if path.exists() else ():
            row: Row = json.loads(line)
            kind = _record_kind(stage.kind, row) if stream == "records" else None
            if kind:
                record = from_line(kind, line)
                yield Entry(record.id, stage, row, record, False)
            else:
                item = row.get("item")
                name = item["id"] if isinstance(item, dict) else row["id"]
                yield Entry(str(name), stage, row, None, stream == "rejects")


def _record_kind(stage: str, row: Row) -> type[Revision] | type[Preference] | None:
    """A filter passes on what it read: only the row itself tells which that is."""
    if stage == FILTER:
        return Revision if "rounds" in row else Preference
    return {"revise": Revision, "prefer": Preference}.get(stage)


def _prompt_id(row: Row) -> str:
    prompt, item = row.get("prompt"), row.get("item")
    found = prompt.get("id") if isinstance(prompt, dict) else item.get("id") if isinstance(item, dict) else ""
    return str(found)
