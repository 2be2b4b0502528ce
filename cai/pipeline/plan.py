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
)
from cai.models.local.heap import suit_memory
from cai.models.local.lengths import token_counter
from cai.models.local.machine import free_memory, total_memory
from cai.models.local.memory import Device, PhaseNeed, Setup, need, peak
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import ModelSpec
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline
from cai.pipeline.work import StageWork, works_of
from cai.store.run_folder import read_events, read_run


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its work, what each of its phases needs, and how long it takes where that is known."""

    work: StageWork
    needs: tuple[PhaseNeed, ...]
    seconds: float | None

    @property
    def bytes(self) -> int:
        """0 where only remote models are asked."""
        return peak(self.needs).bytes if self.needs else 0


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    spec: ModelSpec
    setup: Setup
    loading: PhaseNeed
    stages: tuple[StagePlan, ...]

    @property
    def bytes(self) -> int:
        return max(self.loading.bytes, *(stage.bytes for stage in self.stages))

    @property
    def cards(self) -> tuple[int, ...]:
        return cards_for(self.bytes)

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where one is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def advice(self, card: int) -> list[str]:
        """For each stage that does not fit a card of this many GB, what would have to change."""
        told = []
        for stage in self.stages:
            if not fits(stage.bytes, card):
                change = advice(nearest_of(self, stage, room_of(card)))
                told.append(f"{stage.work.stage} needs {gib(stage.bytes)}: {change}")
        return told or [f"all of it fits a card of {card} GB"]


def plan(pipeline: Pipeline, device: Device, before: Path | None = None) -> Plan:
    """The plan of a pipeline on this kind of device; `before` is the folder of an earlier run that tells the rate."""
    return _planned(pipeline, lambda spec, shape: setup_for(spec, shape, device, total_memory()), before)


def _planned(pipeline: Pipeline, setup_of: Callable[[ModelSpec, Shape], Setup], before: Path | None = None) -> Plan:
    spec = pipeline.model
    if spec is None:
        raise InputError(str(pipeline.path), "asks remote models alone, so there is no memory to plan")
    folder = model_files(spec)
    setup = setup_of(spec, shape_of(folder))
    rates = rates_of(before) if before is not None else {}
    stages = []
    works = works_of(pipeline, token_counter(folder if folder.is_dir() else None))
    for stage, work in zip(pipeline.stages, works, strict=True):
        asked = work if stage.sources.local else replace(work, batches=())
        needs = tuple(need(_with_adapters(setup, asked), batch) for batch in asked.batches)
        rate = rates.get(asked.kind)
        stages.append(StagePlan(asked, needs, rate * asked.inputs if rate is not None else None))
    return Plan(pipeline.spec.name, spec, setup, need(setup), tuple(stages))


def model_files(spec: ModelSpec) -> Path:
    """The model's folder where it is on this machine; else its config.json alone, fetched from the hub."""
    from cai.models.local.finding import find_config

    return find_config(spec.base, spec.revision)


def nearest_of(made: Plan, stage: StagePlan, room: int) -> Nearest | None:
    """The nearest setting with which a stage's largest phase fits."""
    work = stage.work.batches[stage.needs.index(peak(stage.needs))]
    return nearest(_with_adapters(made.setup, stage.work), work, room)


def make_room(pipeline: Pipeline, stages: Sequence[Stage], *, check: bool = True) -> None:
    """Refuse a run of which one of these stages does not fit in the memory that is free now, and go easy on memory
    where it just fits. What cannot be estimated is let through; so is, without `check`, what does not fit."""
    if not stages or pipeline.model is None:
        return
    from cai.models.local.loading import pick_device

    where = pick_device(pipeline.model.device)
    try:
        made = _planned(pipeline, lambda spec, shape: setup_here(spec, shape, where))
    except InputError:
        return
    # Interpreter and libraries, or the context of a GPU, are there already.
    room = free_memory(where) + made.loading.of("before loading")
    wanted = {stage.name for stage in stages}
    ahead = [stage for stage in made.stages if stage.work.stage in wanted]
    if where == "cpu":
        suit_memory(max(stage.bytes for stage in ahead), room)
    for stage in ahead:
        if check and stage.bytes > room:
            place = f"{pipeline.path}: stage {stage.work.stage}"
            require(place, where, peak(stage.needs), room, nearest_of(made, stage, room))


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
            {**need_as_json(each), "rows": batch.rows, "tokens": batch.length}
            for each, batch in zip(stage.needs, work.batches, strict=True)
        ],
        "bytes": stage.bytes,
        "seconds": stage.seconds,
    }


def need_as_json(each: PhaseNeed) -> dict[str, object]:
    parts = {part.name: part.bytes for part in each.parts}
    return {"phase": each.phase, "bytes": each.bytes, "cards": list(cards_for(each.bytes)), "parts": parts}
