"""Runs a pipeline: every stage in order, done ones skipped, half-done ones resumed, nothing overwritten.

A run folder belongs to one process at a time. Everything that can be refused is refused before the first file of a run
is written; a stage counts as done when its manifest is there, and that is written last. What a stage does lives in its
own module; the files about the run as a whole in `logbook`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from cai.files import folder_lock
from cai.journal import Journal
from cai.manifest import read_manifest, verify_manifest, write_manifest
from cai.pipeline.configs import style_of
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event
from cai.pipeline.inputs import Done, Inputs, adapter_of_run, gather, stage_digest, stage_facts
from cai.pipeline.logbook import Logbook
from cai.pipeline.pinning import pinned
from cai.pipeline.plan import make_room
from cai.pipeline.reporting import Subject, reported
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline
from cai.pipeline.stages import JOURNALED, VERSIONS, run_stage
from cai.pipeline.summary import summarise
from cai.pipeline.training_configs import Reported
from cai.store.run_folder import RUNS

__all__ = ["RUNS", "Event", "never", "run_folder", "run_pipeline"]


def never() -> bool:
    return False


def run_folder(pipeline: Pipeline, out: Path | str | None = None) -> Path:
    return Path(out) if out is not None else RUNS / pipeline.spec.name


def run_pipeline(
    pipeline: Pipeline, out: Path | str | None = None, stop: Callable[[], bool] = never, *, check_memory: bool = True
) -> Iterator[Event]:
    """Do what is not done yet. `stop` is asked between chunks and between updates, and makes this raise `Interrupted`.

    `out` is the run folder itself. The same pipeline in the same folder goes on where it was. What will not fit in the
    memory that is free now is refused, unless `check_memory` is off.
    """
    folder = run_folder(pipeline, out)
    local = [stage for stage in pipeline.stages if stage.sources.local]
    spec = pinned(pipeline, folder) if local else pipeline.model
    desk = Desk(spec, pipeline.remotes, folder, stop, check_memory=check_memory)
    # A model or a key that is not there, or another run's model on another base, is refused before the folder is made.
    if local:
        desk.fingerprint()
    for stage in local:
        if stage.sources.start_run:
            adapter_of_run(stage.sources.start_run, desk.fingerprint())
    desk.check_keys()
    fresh = not folder.exists()
    if fresh:
        make_room(pipeline, local, check=check_memory)
    with folder_lock(folder), desk:
        done = _done_already(pipeline, folder, desk)
        if not fresh:
            make_room(pipeline, [stage for stage in local if stage.number not in done], check=check_memory)
        with Logbook(pipeline, folder, desk.spec.revision if desk.spec else None) as logbook:
            for event in _events(pipeline, folder, desk, done):
                logbook.note(event, desk.facts)
                yield event


def _events(pipeline: Pipeline, folder: Path, desk: Desk, known: dict[int, Done]) -> Iterator[Event]:
    kinds = [stage.kind for stage in pipeline.stages]
    yield Event("run_started", "", {"name": pipeline.spec.name, "folder": str(folder), "stages": kinds})
    _check_texts([stage for stage in pipeline.stages if stage.number not in known], desk)
    done: dict[int, Done] = {}
    for stage in pipeline.stages:
        if stage.number in known:
            done[stage.number] = known[stage.number]
            yield Event("stage_skipped", stage.name, _told(done[stage.number]))
        else:
            done[stage.number] = yield from _stage_events(pipeline, stage, folder, desk, done)
    report = None
    if any(stage.kind == "evaluate" for stage in pipeline.stages):
        report = summarise(pipeline, folder, list(done.values()))
    yield Event("run_finished", "", {"folder": str(folder), "report": str(report) if report else None})


def _check_texts(stages: Sequence[Stage], desk: Desk) -> None:
    """Refuses a remote model that only chats where a stage would have it go on with plain text: before anything else
    is asked of any model."""
    roles = {"revise": ("answerer", "critic"), "judge": ("judge",), "prefer": ("judge",)}
    asked = [stage for stage in stages if style_of(stage.config) == "paper"]
    names = {stage.sources.remotes.get(role) for stage in asked for role in roles[stage.kind]}
    for name in sorted(filter(None, names)):
        desk.remote(name).check_text()


def _stage_events(
    pipeline: Pipeline, stage: Stage, folder: Path, desk: Desk, done: dict[int, Done]
) -> Generator[Event, None, Done]:
    inputs = gather(pipeline, stage, done, desk.fingerprint)
    target, digest = _place(folder, stage, inputs)
    if finished := _finished(stage, target):
        yield Event("stage_skipped", stage.name, _told(finished))
        return finished
    resumed = target.exists()
    target.mkdir(parents=True, exist_ok=True)
    yield Event("stage_started", stage.name, {"folder": target.name, "resumed": resumed})
    if stage.sources.local and desk.facts is None:
        facts = desk.workbench().facts
        yield from _other_machine(facts, stage, done)
        if facts["decoding"] != "step loop":
            yield Event("notice", stage.name, {"text": f"this architecture is decoded by {facts['decoding']}: slower"})
    events = run_stage(stage.config, inputs, target, desk)
    if isinstance(stage.config, Reported) and stage.config.report_to:
        # Beside the stage's folder: what a reporter writes is no part of what the stage made.
        settings = stage.config.model_dump(mode="json", by_alias=True)
        subject = Subject(f"{pipeline.spec.name}/{stage.name}", digest, settings, target.name)
        events = reported(events, stage.config.report_to, folder, subject)
    ledger = yield from events
    counts = {"inputs": ledger.inputs, "outputs": ledger.outputs, "rejects": sum(ledger.rejects.values())}
    facts = {"rejects": ledger.rejects, "notes": ledger.notes, **stage_facts(stage, inputs, desk), **ledger.facts}
    version = VERSIONS[stage.kind]
    finished = Done(stage, target, write_manifest(target, stage.kind, version, digest, inputs.digests, counts, facts))
    yield from _spent(stage, desk)
    yield Event("stage_finished", stage.name, _told(finished))
    return finished


def _spent(stage: Stage, desk: Desk) -> Iterator[Event]:
    """What the remote models of a stage have used in this run so far."""
    for name in sorted(set(stage.sources.remotes.values())):
        remote = desk.remote(name)
        cost = "" if remote.cost is None else f", {remote.cost:.4g} by the prices given"
        text = f"{name}: {remote.used.prompt} tokens sent and {remote.used.reply} received in this run{cost}"
        yield Event("notice", stage.name, {"text": text})


def _other_machine(facts: dict[str, object], stage: Stage, done: dict[int, Done]) -> Iterator[Event]:
    """A warning where the stages before were made on another machine: then equal bytes are no longer promised."""
    made = [earlier for earlier in done.values() if earlier.manifest.facts.get("machine", facts) != facts]
    if made:
        before = made[-1].manifest.facts["machine"]
        assert isinstance(before, dict), before
        other = [key for key in facts if before.get(key) != facts[key]]
        differing = ", ".join(f"{key} {before.get(key)} → {facts[key]}" for key in other)
        text = f"{made[-1].stage.name} was made with other versions or another machine ({differing})"
        yield Event("notice", stage.name, {"text": f"{text}; numbers may differ in their last digits"})


def _done_already(pipeline: Pipeline, folder: Path, desk: Desk) -> dict[int, Done]:
    """The stages that are done and unharmed, up to the first that is not; its journal is checked as well."""
    done: dict[int, Done] = {}
    for stage in pipeline.stages:
        target, _ = _place(folder, stage, gather(pipeline, stage, done, desk.fingerprint))
        finished = _finished(stage, target)
        if finished is None:
            if target.exists() and stage.kind in JOURNALED:
                Journal(target).close()
            break
        done[stage.number] = finished
    return done


def _finished(stage: Stage, target: Path) -> Done | None:
    return None if read_manifest(target) is None else Done(stage, target, verify_manifest(target))


def _place(folder: Path, stage: Stage, inputs: Inputs) -> tuple[Path, str]:
    """The stage's folder, and the whole digest that its name begins."""
    digest = stage_digest(stage, VERSIONS[stage.kind], inputs)
    return folder / "stages" / f"{stage.name}-{digest[:12]}", digest


def _told(done: Done) -> dict[str, object]:
    facts = done.manifest.facts
    ledger = {"rejects": facts["rejects"], "notes": facts["notes"]}
    return {"folder": done.folder.name, "counts": dict(done.manifest.counts), **ledger}
