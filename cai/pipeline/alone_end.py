"""What is told of a training alone when it is done: its counts, the metrics that matter, its card."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from cai.files import write_atomic
from cai.journal import read_lines
from cai.pipeline.alone_order import Order
from cai.pipeline.events import Event, Finished
from cai.store.card_parts import Loading, Table
from cai.store.run_folder import ADAPTER
from cai.store.training_card import TrainingCard, training_card

METRICS = "metrics.jsonl"


def words_of(order: Order) -> dict[str, str]:
    """The metrics that matter for this training, and what people call them."""
    several = order.rewards if len(order.rewards) > 1 else ()
    parts = {f"rewards/{reward.name}": f"reward {reward.name}" for reward in several}
    return {"loss": "loss", **order.method.shown, **parts}


def counts_of(ledger: Finished) -> dict[str, int]:
    return {"inputs": ledger.inputs, "outputs": ledger.outputs, "rejects": sum(ledger.rejects.values())}


def facts_of(order: Order, ledger: Finished, machine: Mapping[str, object]) -> dict[str, object]:
    """What the manifest says beside the counts."""
    lines = [json.loads(line) for line in read_lines(order.out / METRICS)]
    return {
        "rejects": ledger.rejects,
        "notes": ledger.notes,
        "updates": len(lines),
        "metrics": first_and_last(lines, words_of(order)),
        "machine": dict(machine),
    }


def first_and_last(lines: list[dict[str, float]], names: Iterable[str]) -> dict[str, list[float]]:
    """Of each metric that was measured at all, its first value and its last."""
    found = {name: [line[name] for line in lines if math.isfinite(line.get(name, math.nan))] for name in names}
    return {name: [values[0], values[-1]] for name, values in found.items() if values}


def ending(order: Order, counts: Mapping[str, int], facts: Mapping[str, object]) -> Event:
    told: dict[str, object] = {
        "folder": str(order.out),
        "method": order.name,
        "adapter": str(order.out / ADAPTER),
        "counts": dict(counts),
        **{name: facts[name] for name in ("rejects", "updates", "metrics")},
    }
    return Event("run_finished", "", told)


def write_card(order: Order, ledger: Finished, facts: Mapping[str, object], sha256: str) -> None:
    """The README in the adapter's folder."""
    plain = json.loads((order.out / ADAPTER / "adapter_config.json").read_text("utf-8"))
    machine = cast(Mapping[str, object], facts["machine"])
    versions = cast(Mapping[str, str], machine.get("versions", {}))
    card = TrainingCard(
        name=order.out.resolve().name,
        method=order.name,
        loading=Loading(
            str(plain["base_model_name_or_path"]), order.spec.revision, order.spec.quantization, "BASE",
            scores=not order.method.speaks, precision=order.spec.precision,
        ),
        adapter=f"rank {plain['r']}, α {plain['lora_alpha']}",
        data=order.data.name,
        sha256=sha256,
        counts=counts_of(ledger),
        rejects=ledger.rejects,
        start=Path(order.start.name).name if order.start else "",
        settings=order.config.model_dump(mode="json"),
        metrics=_table(order, cast(Mapping[str, list[float]], facts["metrics"])),
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )  # fmt: skip
    write_atomic(order.out / ADAPTER / "README.md", training_card(card))


def _table(order: Order, metrics: Mapping[str, list[float]]) -> Table:
    words = words_of(order)
    rows = tuple((words[name], *(f"{value:.4g}" for value in both)) for name, both in metrics.items())
    return Table(("", "first", "last"), rows)
