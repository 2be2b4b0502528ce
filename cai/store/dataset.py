"""What a path names as data: a run, a folder that a stage or an import finished, or a file in any known layout.

Rows are read anew each time they are asked for, so a data set is as large as the disk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cai.errors import DamagedFile, InputError
from cai.files import sha256_of
from cai.manifest import NAME, Manifest, read_manifest, verify_manifest
from cai.records import Preference, Reject
from cai.store.formats.columns import Named
from cai.store.formats.importing import RECORDS, read_rows
from cai.store.formats.layouts import detect, sort_of
from cai.store.formats.rows import SORTS, Answered, Sort
from cai.store.judge_told import CARD, read_card
from cai.store.run_folder import RUN, STAGES, read_run

Row = Preference | Answered

# Which stages' records are which rows; of several, a filter speaks for what stands before it.
_MADE_BY: dict[Sort, tuple[str, ...]] = {"preferences": ("prefer", "import", "filter"), "answers": ("sft", "import")}


@dataclass(frozen=True)
class DataSet:
    """`rows` gives the rows of one sort, and rejects for what a foreign file has besides."""

    path: Path
    title: str
    sort: Sort
    rows: Callable[[], Iterator[Row | Reject]]
    layout: str = "jsonl"
    constitution: Mapping[str, object] = field(default_factory=dict)
    """Id, version, title, digest and principles, where a manifest tells them."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint to the name that people call the model."""
    rejects: Mapping[str, int] = field(default_factory=dict)
    """What the stages that made the data left out, by reason."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Names of what was read, with digests of their content."""
    judge: Mapping[str, object] = field(default_factory=dict)
    """The card of the run's judge, where a stage of it measured one."""

    @property
    def named(self) -> Named:
        return Named(str(self.constitution.get("id", "")), str(self.constitution.get("version", "")))


def open_data(path: Path, sort: Sort | None = None, layout: str = "") -> DataSet:
    """The data that the path names; of several sorts, pairs before answers if nobody says which."""
    if (path / RUN).exists():
        return _of_run(path, sort)
    if (path / NAME).exists():
        return _of_folders(path, [path], path.name, sort)
    if path.is_dir():
        remedy = "name a run, a folder that `cai data import` made, or a file"
        raise InputError(str(path), f"is no data: it has neither {RUN} nor {NAME}", None, remedy)
    return _of_file(path, sort, layout)


def _of_run(path: Path, sort: Sort | None) -> DataSet:
    state = read_run(path)
    finished = [stage for stage in state.stages if stage.state == "done"]
    for wanted in (sort,) if sort else ("preferences", "answers"):
        made = [stage for stage in finished if _holds(path / STAGES / stage.folder, stage.kind, wanted)]
        last_filter = max((stage.number for stage in made if stage.kind == "filter"), default=0)
        folders = [path / STAGES / stage.folder for stage in made if stage.number >= last_filter]
        if folders:
            found = _of_folders(path, folders, state.name, wanted)
            cards = [path / STAGES / stage.folder / CARD for stage in finished if stage.kind == "judge"]
            return replace(found, judge=read_card(cards[-1])) if cards else found
    remedy = "let the run finish a prefer or an sft stage first"
    raise InputError(str(path), f"holds no finished stage with {sort or 'rows'}", None, remedy)


def _holds(folder: Path, kind: str, sort: Sort) -> bool:
    """Whether a stage's records are rows of this sort; a filter of revisions holds none."""
    if kind != "filter" or sort != "preferences":
        return kind in _MADE_BY.get(sort, ())
    manifest = read_manifest(folder)
    return manifest is not None and _mapping(manifest.facts.get("config")).get("of") == sort


def _of_folders(path: Path, folders: list[Path], title: str, sort: Sort | None) -> DataSet:
    manifests = [_finished(folder) for folder in folders]
    files = [folder / RECORDS for folder in folders]

    def every_row() -> Iterator[Row | Reject]:
        for file in files:
            for row in read_rows(file, "jsonl"):
                if isinstance(row, Reject):
                    raise DamagedFile(str(file), row.detail, None, "restore the file, or make the folder again")
                yield row

    facts = [manifest.facts for manifest in manifests]
    rejects: Counter[str] = Counter()
    models: dict[str, str] = {}
    for each in facts:
        rejects.update({why: n for why, n in _mapping(each.get("rejects")).items() if isinstance(n, int)})
        models |= {key: str(name) for key, name in _mapping(each.get("models")).items()}
    constitution = next((_mapping(f["constitution"]) for f in facts if f.get("constitution")), {})
    sources = {f"{f.parent.name}/{f.name}": m.files[RECORDS].sha256 for f, m in zip(files, manifests, strict=True)}
    known = sort or _first_sort(every_row, path)
    return DataSet(path, title, known, _only(every_row, known), "jsonl", constitution, models, rejects, sources)


def _of_file(path: Path, sort: Sort | None, layout: str) -> DataSet:
    name = layout or detect(path).name

    def every_row() -> Iterator[Row | Reject]:
        return read_rows(path, name)

    known = sort or _first_sort(every_row, path)
    return DataSet(path, path.stem, known, _only(every_row, known), name, sources={path.name: sha256_of(path)})


def _finished(folder: Path) -> Manifest:
    manifest = verify_manifest(folder) if read_manifest(folder) else None
    if manifest is None or RECORDS not in manifest.files:
        raise InputError(str(folder), "holds no finished records", None, "run the command that makes it again")
    return manifest


def _first_sort(rows: Callable[[], Iterator[Row | Reject]], path: Path) -> Sort:
    for row in rows():
        if not isinstance(row, Reject):
            return sort_of(row)
    raise InputError(str(path), "has no row that can be used", None, "`cai data check` says what is wrong with each")


def _only(rows: Callable[[], Iterator[Row | Reject]], sort: Sort) -> Callable[[], Iterator[Row | Reject]]:
    assert sort in SORTS, sort

    def chosen() -> Iterator[Row | Reject]:
        for row in rows():
            if isinstance(row, Reject) or sort_of(row) == sort:
                yield row
            else:
                yield Reject(row.id, "data", f"not {sort}", f"the row is of the sort {sort_of(row)}")

    return chosen


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}
