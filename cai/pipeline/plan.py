"""A pipeline's plan: what each stage will need in memory, on which cards it fits, how much it will ask of the model.

Nothing is loaded: sizes come from the model's files, lengths from its tokenizer, time from an earlier run. What is
asked is worked out in `work`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cai.errors import InputError
from cai.models.local.fitting import (
    Nearest,
    advice,
    cards_for,
    fits,
    gib,
    nearest,
    require,
    room_of,
    setup_for,
    setup_here,
    smallest_for,
)
from cai.models.local.heap import suit_memory
from cai.models.local.lengths import token_counter
from cai.models.local.machine import free_memory, total_memory
from cai.models.local.memory import Device, PhaseNeed, Setup, need
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import ModelSpec
from cai.models.local.width import LEAST, AtOnce, width_in
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline
from cai.pipeline.work import Batch, StageWork, works_of
from cai.store.run_folder import read_events, read_run


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase: its largest batch as it will be and as it can be at least, and what these need."""

    batch: Batch
    need: PhaseNeed
    least: Batch
    least_need: PhaseNeed


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its work, its phases, and how long it takes where that is known."""

    work: StageWork
    phases: tuple[PhasePlan, ...]
    seconds: float | None

    @property
    def bytes(self) -> int:
        """0 where only remote models are asked."""
        return max((phase.need.bytes for phase in self.phases), default=0)

    @property
    def least_bytes(self) -> int:
        """Where as little is generated together as can be."""
        return max((phase.least_need.bytes for phase in self.phases), default=0)


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    spec: ModelSpec
    setup: Setup
    loading: PhaseNeed
    stages: tuple[StagePlan, ...]
    room: int
    """The bytes that it is planned for: how much is generated together follows from it."""

    def within(self, room: int) -> "Plan":
        """The same for another room."""
        width = width_in(self.setup, room)
        stages = tuple(replace(stage, phases=_phases(self.setup, stage.work, width)) for stage in self.stages)
        return replace(self, stages=stages, room=room)

    @property
    def bytes(self) -> int:
        return max(self.loading.bytes, *(stage.bytes for stage in self.stages))

    @property
    def least_bytes(self) -> int:
        """What it takes where as little is generated together as can be."""
        return max(self.loading.bytes, *(stage.least_bytes for stage in self.stages))

    @property
    def narrower(self) -> bool:
        """Whether less would be generated together where there were less room."""
        return any(phase.least != phase.batch for stage in self.stages for phase in stage.phases)

    @property
    def cards(self) -> tuple[int, ...]:
        return cards_for(self.least_bytes)

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where one is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def advice(self, card: int) -> list[str]:
        """For each stage that does not fit a card of this many GB, what would have to change."""
        told = []
        for stage in self.stages:
            if not fits(stage.least_bytes, card):
                hardest = max(stage.phases, key=lambda phase: phase.least_need.bytes)
                change = advice(nearest_of(self, stage, hardest.least, room_of(card)))
                told.append(f"{stage.work.stage} needs {gib(stage.least_bytes)}: {change}")
        return told or [f"all of it fits a card of {card} GB"]


def plan(pipeline: Pipeline, device: Device, before: Path | None = None, card: int | None = None) -> Plan:
    """The plan of a pipeline on a card of so many GB, or on the smallest that it fits; on a CPU that of this machine.
    `before` is the folder of an earlier run that tells the rate."""
    setup = _setup(pipeline, lambda spec, shape: setup_for(spec, shape, device, total_memory()))
    room = total_memory() if device == "cpu" else 0
    made = _planned(pipeline, setup, room if card is None else room_of(card), before)
    return made if made.room else made.within(room_of(smallest_for(made.least_bytes)))


def _setup(pipeline: Pipeline, setup_of: Callable[[ModelSpec, Shape], Setup]) -> Setup:
    if pipeline.model is None:
        raise InputError(str(pipeline.path), "asks remote models alone, so there is no memory to plan")
    return setup_of(pipeline.model, shape_of(model_files(pipeline.model)))


def _planned(pipeline: Pipeline, setup: Setup, room: int, before: Path | None = None) -> Plan:
    spec = pipeline.model
    assert spec is not None, pipeline.path
    folder = model_files(spec)
    rates = rates_of(before) if before is not None else {}
    stages = []
    works = works_of(pipeline, token_counter(folder if folder.is_dir() else None))
    for stage, work in zip(pipeline.stages, works, strict=True):
        asked = work if stage.sources.local else replace(work, batches=())
        rate = rates.get(asked.kind)
        stages.append(StagePlan(asked, (), rate * asked.inputs if rate is not None else None))
    return Plan(pipeline.spec.name, spec, setup, need(setup), tuple(stages), 0).within(room)


def model_files(spec: ModelSpec) -> Path:
    """The model's folder where it is on this machine; else its config.json alone, fetched from the hub."""
    from cai.models.local.finding import find_config

    return find_config(spec.base, spec.revision)


def nearest_of(made: Plan, stage: StagePlan, batch: Batch, room: int) -> Nearest | None:
    """The nearest setting with which a batch of a stage fits."""
    return nearest(_with_adapters(made.setup, stage.work), batch, room)


def make_room(pipeline: Pipeline, stages: Sequence[Stage], *, check: bool = True) -> None:
    """Refuse a run of which one of these stages does not fit in the memory that is free now, and go easy on memory
    where it just fits. What cannot be estimated is let through; so is, without `check`, what does not fit."""
    if not stages or pipeline.model is None:
        return
    from cai.models.local.loading import pick_device

    where = pick_device(pipeline.model.device)
    try:
        setup = _setup(pipeline, lambda spec, shape: setup_here(spec, shape, where))
        # Interpreter and libraries, or the context of a GPU, are there already.
        room = free_memory(where) + need(setup).of("before loading")
        made = _planned(pipeline, setup, room)
    except InputError:
        return
    wanted = {stage.name for stage in stages}
    ahead = [stage for stage in made.stages if stage.work.stage in wanted]
    if where == "cpu":
        suit_memory(max(stage.bytes for stage in ahead), room)
    for stage in ahead:
        # As much is generated together as there is room for: it is too much only where very little is.
        if check and stage.bytes > room:
            place = f"{pipeline.path}: stage {stage.work.stage}"
            largest = max(stage.phases, key=lambda phase: phase.need.bytes)
            require(place, where, largest.need, room, nearest_of(made, stage, largest.batch, room))


def rates_of(folder: Path) -> Mapping[str, float]:
    """Seconds for each input of each stage kind, from what an earlier run told. Stages that were interrupted, and so
    have no length, are left out."""
    started: dict[str, float] = {}
    seconds: dict[str, float] = {}
    inputs: dict[str, int] = {}
    read_run(folder)  # Refuses a folder that is no run's.
    for event in read_events(folder):
        if event.kind == "stage_started" and not event.data.get("resumed"):
            started[event.stage] = event.time
        elif event.kind == "stage_finished" and event.stage in started:
            kind = event.stage.partition("-")[2]
            seconds[kind] = seconds.get(kind, 0.0) + event.time - started.pop(event.stage)
            counts = event.data.get("counts")
            inputs[kind] = inputs.get(kind, 0) + (int(counts.get("inputs", 0)) if isinstance(counts, dict) else 0)
    return {kind: seconds[kind] / inputs[kind] for kind in seconds if inputs[kind]}


def _phases(setup: Setup, work: StageWork, width: AtOnce) -> tuple[PhasePlan, ...]:
    own = _with_adapters(setup, work)
    both = [(width.of(batch), LEAST.of(batch)) for batch in work.batches]
    return tuple(PhasePlan(now, need(own, now), least, need(own, least)) for now, least in both)


def _with_adapters(setup: Setup, work: StageWork) -> Setup:
    return replace(setup, adapters=work.adapters)


def plan_as_json(made: Plan, card: int | None = None) -> dict[str, object]:
    """The plan as plain values; with a card, what would have to change to fit it."""
    return {
        **({"advice": made.advice(card)} if card else {}),
        "name": made.name,
        "device": made.setup.device,
        "model": {
            "base": made.spec.base,
            "quantization": made.spec.quantization,
            "parameters": made.setup.shape.parameters,
        },
        "bytes": made.bytes,
        "least_bytes": made.least_bytes,
        "room": made.room,
        "cards": list(made.cards),
        "loading": need_as_json(made.loading),
        "stages": [_stage_as_json(stage) for stage in made.stages],
        "seconds": made.seconds,
    }


def _stage_as_json(stage: StagePlan) -> dict[str, object]:
    work = stage.work
    return {
        "stage": work.stage,
        "inputs": work.inputs,
        "answers": work.answers,
        "judgements": work.judgements,
        "prompt_tokens": work.prompt_tokens,
        "new_tokens": work.new_tokens,
        "trained_tokens": work.trained_tokens,
        "updates": work.updates,
        "longest": work.longest,
        "phases": [
            {
                **need_as_json(phase.need),
                "rows": phase.batch.rows,
                "tokens": phase.batch.length,
                "least_rows": phase.least.rows,
                "least_bytes": phase.least_need.bytes,
                "cards": list(cards_for(phase.least_need.bytes)),
            }
            for phase in stage.phases
        ],
        "bytes": stage.bytes,
        "seconds": stage.seconds,
    }


def need_as_json(each: PhaseNeed) -> dict[str, object]:
    parts = {part.name: part.bytes for part in each.parts}
    return {"phase": each.phase, "bytes": each.bytes, "cards": list(cards_for(each.bytes)), "parts": parts}
