"""A pilot: the stages before training on a handful of prompts, in the run's own folder, and what all will take.

Nothing of a pilot is lost: the whole run finds every answer and every judgement that the pilot paid for.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cai.errors import InputError
from cai.journal import read_lines
from cai.manifest import Manifest, read_manifest
from cai.models.remote.budget import Budget
from cai.models.remote.ledger import Ledger
from cai.pipeline.calls import STREAM
from cai.pipeline.desk import REMOTE
from cai.pipeline.events import Event
from cai.pipeline.reading import each_record
from cai.pipeline.spec import Pipeline
from cai.pipeline.training_configs import LEARNING
from cai.records import Preference
from cai.statistics import Interval, t_interval
from cai.store.run_folder import STAGES

PARTS = 4
"""A pilot's prompts go in this many chunks at least, so that there is something to tell the spread from."""
LEAST = 2 * PARTS


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage before training: what the pilot did, and what the whole run will do if it goes on like that."""

    stage: str
    piloted: int
    rows: int
    seconds: Interval | None
    """Of the whole stage; None where all of the pilot was there already."""
    tokens_read: int
    tokens_written: int
    bytes: int
    rejects: Mapping[str, int]
    notes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Forecast:
    prompts: int
    of: int
    stages: tuple[StageForecast, ...]
    cost: Mapping[str, float]
    """Of each remote model with prices, for the whole run."""
    consistency: float | None
    """Share of judged pairs of which the judge named the same answer in both orders."""
    untimed: tuple[str, ...]
    """Stages that a pilot does not reach."""


@dataclass
class Watch:
    """When each chunk of each stage was done; the caller shows the events as ever."""

    seconds: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """By stage: rows and seconds of each chunk but the first, which loads and warms up."""

    def over(self, events: Iterator[Event]) -> Iterator[Event]:
        last: tuple[int, float] | None = None
        for event in events:
            now = time.monotonic()
            if event.kind == "stage_started":
                last = None
            elif event.kind == "progress":
                done = event.data["done"]
                assert isinstance(done, int), event
                chunks = self.seconds.setdefault(event.stage, [])
                if last is not None and done > last[0]:
                    chunks.append((done - last[0], now - last[1]))
                last = (done, now)
            yield event


def pilot_of(pipeline: Pipeline, prompts: int) -> Pipeline:
    """The same pipeline on its first prompts, up to the first training stage."""
    if prompts < LEAST:
        raise InputError("--pilot", f"needs at least {LEAST} prompts to tell anything", prompts, "give it more")
    ahead = []
    for stage in pipeline.stages:
        if stage.kind in LEARNING:
            break
        chunk = getattr(stage.config, "chunk", None)
        smaller = {} if chunk is None else {"chunk": min(chunk, -(-prompts // PARTS))}
        ahead.append(replace(stage, config=stage.config.model_copy(update=smaller)))
    if not ahead:
        first = pipeline.stages[0].name
        raise InputError(str(pipeline.path), f"begins with training ({first}), so there is nothing to pilot", None, "")
    return replace(pipeline, train=pipeline.train[:prompts], stages=tuple(ahead))


def forecast(pipeline: Pipeline, pilot: Pipeline, folder: Path, watch: Watch, piloted: Sequence[str]) -> Forecast:
    """What the whole run will take, from the pilot's finished folders, which are named in the order of its stages."""
    scale = len(pipeline.train) / max(1, len(pilot.train))
    stages = []
    agreeing: list[bool] = []
    for stage, name in zip(pilot.stages, piloted, strict=True):
        path = folder / STAGES / name
        manifest = read_manifest(path)
        assert manifest is not None, path
        # Labelled pairs that measure a judge are as many in either run.
        factor = 1.0 if stage.kind == "judge" else scale
        stages.append(_stage_forecast(stage.name, path, manifest, factor, watch.seconds.get(stage.name, [])))
        if stage.kind == "prefer":
            verdicts = (verdict for row in each_record(Preference, [path]) for verdict in row.verdicts)
            agreeing += [(v.p_first > 0.5) == (v.p_first_swapped > 0.5) for v in verdicts]
    return Forecast(
        len(pilot.train),
        len(pipeline.train),
        tuple(stages),
        _costs(pilot, folder, scale),
        sum(agreeing) / len(agreeing) if agreeing else None,
        tuple(stage.name for stage in pipeline.stages[len(pilot.stages) :]),
    )


def _stage_forecast(
    name: str, path: Path, manifest: Manifest, factor: float, chunks: Sequence[tuple[int, float]]
) -> StageForecast:
    rows = round(manifest.counts["inputs"] * factor)
    each = t_interval([seconds / done for done, seconds in chunks]) if chunks else None
    seconds = Interval(max(0.0, each.low) * rows, each.high * rows) if each else None
    read, written = _tokens(path / f"{STREAM}.jsonl")
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    rejects, notes = (_counts(manifest.facts.get(key)) for key in ("rejects", "notes"))
    told = (round(read * factor), round(written * factor), round(size * factor))
    return StageForecast(name, manifest.counts["inputs"], rows, seconds, *told, rejects, notes)


def _tokens(calls: Path) -> tuple[int, int]:
    """What local models read and wrote; remote ones keep their own books."""
    read = written = 0
    for line in read_lines(calls) if calls.exists() else ():
        tokens = json.loads(line)["said"]["tokens"]
        read += tokens[0] if isinstance(tokens, list) else tokens
        written += tokens[1] if isinstance(tokens, list) else 0
    return read, written


def _costs(pilot: Pipeline, folder: Path, scale: float) -> dict[str, float]:
    costs = {}
    for name, spec in pilot.remotes.items():
        if spec.prices is not None and (folder / REMOTE / name).is_dir():
            ledger = Ledger(folder / REMOTE / name)
            costs[name] = Budget(spec.limits, spec.prices).cost(ledger.used) * scale
            ledger.close()
    return costs


def _counts(value: object) -> dict[str, int]:
    return dict(Counter({str(key): int(count) for key, count in value.items()})) if isinstance(value, dict) else {}
