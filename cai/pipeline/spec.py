"""Pipeline files: read, overridden by `--set`, checked as a whole, before anything is written.

Relative paths are looked for in the working directory, then beside the pipeline file, then in the folder above it.
Whether the model is there and whether the run folder is free is the runner's to find out.
"""

import difflib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cai.constitution.model import Constitution, load_constitution
from cai.errors import InputError
from cai.models.local.spec import ModelSpec
from cai.models.remote.spec import RemoteSpec
from cai.pipeline.alone_rows import read_data
from cai.pipeline.configs import KINDS, EvaluateConfig, JudgeStageConfig, PipelineSpec, PreferConfig, PromptSet
from cai.pipeline.final import find_final
from cai.pipeline.labelled import labelled_pairs, refuse_without_pairs
from cai.pipeline.overrides import with_overrides
from cai.pipeline.prompts import EMBEDDED, embedded_prompts
from cai.pipeline.reporting import require_package
from cai.pipeline.rounds import written_out
from cai.pipeline.sources import NoSourceError, Stage, sources_of
from cai.pipeline.training_configs import Reported, SftStageConfig
from cai.records import Prompt
from cai.store.formats.prompts import read_prompts
from cai.strict_yaml import Document, read_yaml, validated

if TYPE_CHECKING:
    from cai.strict_yaml import Key


@dataclass(frozen=True)
class Pipeline:
    """A pipeline file that was found sound, and what it names: its constitution, its prompts, its stages."""

    spec: PipelineSpec
    path: Path
    document: Document
    stages: tuple[Stage, ...]
    constitution: Constitution
    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    files: Mapping[int, Path] = field(default_factory=dict)
    """What a stage reads of the user's beside prompts, by the stage's number."""
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What to type for this run."""
        changes = (word for override in self.overrides for word in ("--set", override))
        return shlex.join(["cai", "run", str(self.path), *changes])

    @property
    def model(self) -> ModelSpec | None:
        """The model as it is to be opened: a local folder by its full path."""
        spec = self.spec.model
        folder = None if spec is None or spec.base == "tiny" else _find(spec.base, self.path)
        return spec if spec is None or folder is None else replace(spec, base=str(folder))

    @property
    def remotes(self) -> dict[str, RemoteSpec]:
        """The remote models that some stage asks."""
        asked = {name for stage in self.stages for name in stage.sources.remotes.values()}
        return {name: spec for name, spec in self.spec.models.items() if name in asked}


def load_pipeline(path: Path | str, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline in this file with these `a.b=c` overrides; whatever in it cannot be used is refused by its line."""
    path = Path(path)
    document = read_yaml(path)
    try:
        return _resolved(document, path, overrides)
    except InputError as error:
        culprit = _culprit(document, path, overrides, str(error))
        if culprit is None:
            raise
        raise InputError(f"--set {culprit}", error.problem, error.value, error.remedy) from None


def _resolved(document: Document, path: Path, overrides: Sequence[str]) -> Pipeline:
    # Spelled out on both sides: an override may reach into a short form, or bring one.
    document = _spelled_out(written_out(with_overrides(_spelled_out(document), overrides)))
    _check_kinds(document)
    spec = validated(document, PipelineSpec)
    stages = _stages(document, spec)
    _check_reporters(document, stages)
    constitution = load_constitution(_file(document, spec.constitution, path, "constitution"))
    _check_principles(document, constitution, stages)
    train, test = (_prompts(document, path, part, stages) for part in ("train", "test"))
    _check_suites(document, stages, test)
    files = _stage_files(document, path, stages)
    return Pipeline(spec, path, document, stages, constitution, train, test, files, tuple(overrides))


def _spelled_out(document: Document) -> Document:
    """The same with its short forms written out: a stage without settings, a prompt set that is only a name."""
    data = document.data
    if not isinstance(data, dict):
        return document
    data = dict(data)
    if isinstance(data.get("stages"), list):
        data["stages"] = [_stage_spelled_out(entry) for entry in data["stages"]]
    if isinstance(data.get("prompts"), dict):
        data["prompts"] = {
            key: {"from": value} if isinstance(value, str) else value for key, value in data["prompts"].items()
        }
    return replace(document, data=data)


def _stage_spelled_out(entry: object) -> object:
    if isinstance(entry, str):
        return {entry: {}}
    if isinstance(entry, dict):
        return {kind: {} if settings is None else settings for kind, settings in entry.items()}
    return entry


def _check_kinds(document: Document) -> None:
    """Each stage is one known kind: told here, because 'did you mean' knows kinds better than a schema does."""
    data = document.data
    entries = data.get("stages") if isinstance(data, dict) else None
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        place, known = document.place("stages", i), f"known here: {', '.join([*KINDS, 'repeat'])}"
        if not isinstance(entry, dict) or len(entry) != 1:
            raise InputError(place, f"stages[{i}] must be one stage kind with its settings", entry, known)
        kind = next(iter(entry))
        if kind not in KINDS:
            close = difflib.get_close_matches(kind, KINDS, n=1)
            remedy = f"did you mean '{close[0]}'?" if close else known
            raise InputError(document.place("stages", i, kind), "there is no such stage kind", kind, remedy)


def _stages(document: Document, spec: PipelineSpec) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for i, entry in enumerate(spec.stages):
        kind = next(iter(entry))
        at: tuple[Key, ...] = ("stages", i, kind)
        config = validated(document, KINDS[kind], at)
        try:
            sources = sources_of(config, stages, spec.models)
        except NoSourceError as error:
            place = document.place(*at, *([error.key] if error.key else []))
            raise InputError(place, f"stage '{kind}' {error.problem}", error.value, error.remedy) from None
        if sources.local and spec.model is None:
            remedy = "add it, as in model: {base: tiny}, or name remote models for all roles of the stage"
            raise InputError(document.place(*at), f"stage '{kind}' needs the base, and model is missing", None, remedy)
        if sources.start_run and find_final(sources.start_run) is None:
            remedy = "name what another run made as RUN/STAGE, such as quickstart/sft"
            raise InputError(document.place(*at, "from"), "there is no such run", sources.start_run, remedy)
        stages.append(Stage(i + 1, kind, config, sources))
    return tuple(stages)


def _check_reporters(document: Document, stages: Sequence[Stage]) -> None:
    """Hours later, when the training begins, would be late to hear of a package that is not there."""
    for stage in stages:
        if isinstance(stage.config, Reported) and stage.config.report_to:
            place = document.place("stages", stage.number - 1, stage.kind, "report_to")
            require_package(stage.config.report_to, place, "report_to")


def _check_principles(document: Document, constitution: Constitution, stages: Sequence[Stage]) -> None:
    """Evaluating needs no principle: without one that judges, the judge goes unmeasured."""
    for stage in stages:
        use = stage.sources.constitution
        if use and stage.kind != "evaluate" and not constitution.for_use(use):
            texts = "both a critique and a revision" if use == "revise" else "a preference"
            problem = f"no principle has {texts}, and stage '{stage.kind}' needs one"
            raise InputError(constitution.path or document.name, problem, None, "add it to a principle")


def _prompts(document: Document, path: Path, part: str, stages: Sequence[Stage]) -> tuple[Prompt, ...]:
    wanted: PromptSet | None = getattr(validated(document, PipelineSpec).prompts, part)
    if wanted is None:
        needing = (s for s in stages if s.sources.prompts == part and s.sources.prompts_needed)
        if needy := next(needing, None):
            raise InputError(
                document.place("prompts"), f"stage '{needy.kind}' needs prompts.{part}", None, f"add a '{part}' set"
            )
        return ()
    if wanted.source in EMBEDDED:
        return tuple(embedded_prompts(wanted.source, wanted.limit))
    found = read_prompts(_file(document, wanted.source, path, "prompts", part, "from"), wanted.limit)
    if not found:
        raise InputError(
            document.place("prompts", part), f"prompts.{part} is empty", wanted.source, "put at least one prompt in it"
        )
    return tuple(found)


def _stage_files(document: Document, path: Path, stages: Sequence[Stage]) -> dict[int, Path]:
    """Whatever a stage names that is no part of the embedded world must be there, and hold pairs, before anything
    runs."""
    found = {}
    for stage in stages:
        at = ("stages", stage.number - 1, stage.kind)
        if isinstance(stage.config, PreferConfig) and stage.config.file is not None:
            found[stage.number] = _file(document, stage.config.file, path, *at, "file")
            refuse_without_pairs(found[stage.number])
        if isinstance(stage.config, JudgeStageConfig) and stage.config.data not in EMBEDDED:
            found[stage.number] = _file(document, stage.config.data, path, *at, "data")
            labelled_pairs(found[stage.number], 1)
        if isinstance(stage.config, SftStageConfig) and stage.config.file is not None:
            found[stage.number] = _file(document, stage.config.file, path, *at, "file")
            read_data(found[stage.number], "", "sft", "answers")
    return found


def _check_suites(document: Document, stages: Sequence[Stage], test: Sequence[Prompt]) -> None:
    from cai.evaluate.suites import SUITES

    for stage in stages:
        if not isinstance(stage.config, EvaluateConfig):
            continue
        place = document.place("stages", stage.number - 1, "evaluate", "suites")
        for suite in stage.config.suites:
            if suite not in SUITES:
                raise InputError(place, "there is no such suite", suite, f"known here: {', '.join(SUITES)}")
        if "tiny" in stage.config.suites and not all(prompt.source.startswith("tiny/") for prompt in test):
            raise InputError(
                place, "suite 'tiny' only reads answers to the embedded world's requests", None,
                "set prompts.test to tiny/test, or leave this suite out",
            )  # fmt: skip


def _file(document: Document, name: str, path: Path, *at: "Key") -> Path:
    found = _find(name, path)
    if found is None:
        known = f"; the embedded sets are {', '.join(EMBEDDED)}" if at[0] == "prompts" or at[-1] == "data" else ""
        folders = ", ".join(str(folder) for folder in _folders(path))
        raise InputError(document.place(*at), "there is no such file", name, f"looked in {folders}{known}")
    return found


def _find(name: str, path: Path) -> Path | None:
    """The file or folder of that name, where a pipeline's relative paths are looked for."""
    places = (folder / Path(name).expanduser() for folder in _folders(path))
    return next((place for place in places if place.exists()), None)


def _folders(path: Path) -> tuple[Path, ...]:
    beside = path.resolve().parent
    return tuple(dict.fromkeys((Path(os.curdir), *(f for f in (beside, beside.parent) if f != Path.cwd()))))


def _culprit(document: Document, path: Path, overrides: Sequence[str], message: str) -> str | None:
    """The override without which this error would not be: the error belongs to it, not to the file."""
    for i, override in enumerate(overrides):
        try:
            _resolved(document, path, [*overrides[:i], *overrides[i + 1 :]])
        except InputError as other:
            if str(other) == message:
                continue
        return override
    return None
