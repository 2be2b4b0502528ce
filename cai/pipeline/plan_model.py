"""What a model alone needs, without a pipeline: each precision, each phase, at sizes that are common."""

from dataclasses import dataclass
from pathlib import Path

from cai.models.local.fitting import advice, cards_for, fits, gib, nearest, room_of, setup_for
from cai.models.local.machine import total_memory
from cai.models.local.memory import Device, Generating, Judging, PhaseNeed, Setup, Training, Work, need
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import ModelSpec, Quantization
from cai.models.local.width import LEAST, MOST, USUAL, AtOnce, width_in
from cai.pipeline.plan import model_files, need_as_json
from cai.pipeline.work import Batch

_PRECISIONS: tuple[Quantization, ...] = ("nf4", "int8", "none")
_BATCHES: tuple[Batch | None, ...] = (
    None,
    Generating(MOST["cuda"].rows, 512, 256),
    Judging(21, 768),
    Training("sft", 4, 1024, 4 * 512),
    Training("dpo", 4, 1024, 4 * 512, continued=True),
)
"""Prompts of 512 tokens, answers of 256; 4,096 tokens in a pass of training."""


@dataclass(frozen=True, slots=True)
class Row:
    quantization: Quantization
    work: Batch | None
    need: PhaseNeed
    setup: Setup
    least: Batch | None
    least_need: PhaseNeed
    """With as little generated together as can be."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    name: str
    shape: Shape
    device: Device
    rows: tuple[Row, ...]

    def advice(self, card: int) -> list[str]:
        """For each phase that does not fit a card of this many GB in 4 bits, what would have to change."""
        told = []
        for row in self.rows:
            if row.quantization == "nf4" and not fits(row.least_need.bytes, card):
                work: Work | None = row.least
                change = advice(nearest(row.setup, work, room_of(card)))
                told.append(f"{row.need.verb} needs {gib(row.least_need.bytes)}: {change}")
        return told or [f"in 4 bits, all of it fits a card of {card} GB"]


def model_plan(model: str, revision: str | None, device: Device, card: int | None = None) -> ModelPlan:
    """What a model needs for everything that a run does with it, generating as much together as a card of so many GB
    has room for; `model` may be a lone config.json."""
    shape = shape_of(model_files(ModelSpec(model, revision)))
    rows = []
    for quantization in _PRECISIONS:
        setup = setup_for(ModelSpec(model, revision, quantization), shape, device, total_memory())
        width = USUAL if card is None else width_in(setup, room_of(card))
        rows += [_row(quantization, setup, work, width) for work in _BATCHES]
    return ModelPlan(Path(model).name, shape, device, tuple(rows))


def _row(quantization: Quantization, setup: Setup, work: Batch | None, width: AtOnce) -> Row:
    now, least = (None, None) if work is None else (width.of(work), LEAST.of(work))
    return Row(quantization, now, need(setup, now), setup, least, need(setup, least))


def model_plan_as_json(made: ModelPlan, card: int | None = None) -> dict[str, object]:
    return {
        **({"advice": made.advice(card)} if card else {}),
        "name": made.name,
        "device": made.device,
        "parameters": made.shape.parameters,
        "rows": [
            {
                "quantization": row.quantization,
                **need_as_json(row.need),
                "cards": list(cards_for(row.least_need.bytes)),
                "least_bytes": row.least_need.bytes,
            }
            for row in made.rows
        ],
    }
