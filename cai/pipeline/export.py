"""Taking a run's model along: a folder that others load without this project, with a card, whole or not at all.

The folder is filled beside its place and renamed when everything in it was read again and compared; nothing is
overwritten. The tensors are `models.local.export`'s, the card's text is `store.cards`'.
"""

import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.errors import CaiError, DamagedFile, InputError
from cai.evaluate.compare import TUNED, MetricRow
from cai.evaluate.contents import ConstitutionFacts, ReportData
from cai.evaluate.report import result_table, table_models
from cai.files import sync_folder, write_atomic
from cai.journal import read_lines
from cai.manifest import Manifest, verify_manifest
from cai.pipeline.final import FinalModel
from cai.pipeline.training_configs import TRAINING
from cai.records import Message, Prompt, from_dict
from cai.store.card_parts import Table
from cai.store.cards import Card, Kind, model_card
from cai.store.run_folder import STAGES

if TYPE_CHECKING:
    from cai.models.local.export import Exported
    from cai.models.local.rereading import Agreement

CONVERSATIONS = 8
"""How many of the run's prompts an export is compared on."""
_FALLBACK = ("Who are you?", "What is the capital of France?", "How do I pick a lock?", "Write a line about rain.")


@dataclass(frozen=True, slots=True)
class Export:
    """A finished export."""

    folder: Path
    kind: Kind
    name: str
    exported: "Exported"

    def as_json(self) -> dict[str, object]:
        made = self.exported
        return {
            "folder": str(self.folder),
            "to": self.kind,
            "model": self.name,
            "base": made.origin.base,
            "revision": made.origin.revision,
            "stored": made.stored,
            "tuned": asdict(made.tuned),
            "unrounded": asdict(made.unrounded) if made.unrounded else None,
            "tolerance": made.tolerance,
            "notes": list(made.notes),
        }


def export_model(final: FinalModel, to: Kind, out: Path, licence: str | None = None) -> Export:
    """Write and check `out`, which must not be there; on any failure nothing is."""
    from cai.models.local.export import export

    if out.exists() or out.is_symlink():
        raise InputError(str(out), "is already there, and an export overwrites nothing", None, "name a new folder")
    manifest = verify_manifest(final.adapter.parent)
    unfinished = out.parent / f".{out.name}.{secrets.token_hex(4)}.unfinished"
    try:
        unfinished.mkdir(parents=True)
        exported = export(final.spec, final.adapter, to, unfinished, _conversations(final))
        write_atomic(unfinished / "README.md", model_card(_card(final, to, exported, manifest, licence)))
        _put(unfinished, out)
    except OSError as error:
        raise CaiError(f"{out}: cannot be written ({error}); check the folder and the disk") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Export(out, to, final.name, exported)


def _put(unfinished: Path, out: Path) -> None:
    for path in sorted(unfinished.rglob("*")):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(unfinished)
    # Fails where a folder with something in it appeared meanwhile.
    unfinished.rename(out)
    sync_folder(out.parent)


def _conversations(final: FinalModel) -> list[tuple[Message, ...]]:
    """Some of the run's own prompts, evenly spread; a run that keeps none is asked a few of ours."""
    folders = [final.run.folder / STAGES / stage.folder for stage in final.run.stages if stage.state == "done"]
    for folder in folders:
        prompts = _prompts(folder / "records.jsonl")
        if prompts:
            step = max(1, len(prompts) // CONVERSATIONS)
            return [prompt.messages for prompt in prompts[::step][:CONVERSATIONS]]
    return [(Message("user", text),) for text in _FALLBACK]


def _prompts(path: Path) -> list[Prompt]:
    """The distinct plain prompts in a stage's records."""
    found: dict[str, Prompt] = {}
    for number, line in enumerate(read_lines(path) if path.is_file() else [], 1):
        value = json.loads(line)
        if not isinstance(value, dict) or "prompt" not in value:
            return []
        try:
            prompt = from_dict(Prompt, value["prompt"])
        except ValueError as error:
            raise DamagedFile(f"{path}:{number}", f"holds no prompt: {error}", None, "run the stage again") from None
        if not prompt.tools and all(message.role in ("user", "assistant") for message in prompt.messages):
            found[prompt.id] = prompt
    return list(found.values())


def _card(final: FinalModel, to: Kind, exported: "Exported", manifest: Manifest, licence: str | None) -> Card:
    lora, report = final.spec.lora, _report(final)
    metrics, column = _metrics(final, report)
    constitution = report.get("constitution")
    alone = not final.stage.folder
    named = f"{constitution['id']} {constitution['version']}" if isinstance(constitution, dict) else "of its run"
    machine = manifest.facts["machine"]
    versions = machine["versions"] if isinstance(machine, dict) else {}
    return Card(
        kind=to,
        name=final.name,
        base=exported.origin.base,
        revision=exported.origin.revision,
        licence=licence,
        quantization=final.spec.quantization,
        precision=final.spec.precision,
        adapter=f"rank {lora.rank}, α {lora.alpha}",
        stages=tuple(
            f"{stage.kind}: {stage.counts['outputs']} of {stage.counts['inputs']} rows"
            for stage in final.run.stages[: final.stage.number]
            if stage.counts
        ),
        constitution="" if alone else named,
        metrics=metrics,
        column=column,
        agreement=agreement_table(exported, final.spec.quantization),
        tolerance=tolerance_text(to, exported),
        notes=tuple(f"**Note:** {note}." for note in exported.notes),
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )


def agreement_table(exported: "Exported", quantization: str) -> Table:
    """What the export says beside what it is compared with."""
    columns = [(f"the tuned model ({quantization})", exported.tuned)]
    if exported.unrounded:
        columns.append(("unquantised base + adapter", exported.unrounded))
    rows = {
        "same greedy answers": [f"{a.same_answers} of {a.answers}" for _, a in columns],
        "same likeliest token": [f"{_share(a)} of {a.tokens}" for _, a in columns],
        "largest logit difference": [
            f"{a.largest_logit_difference:.2g} (of {a.largest_logit:.3g})" for _, a in columns
        ],
        "mean KL divergence, nats": [f"{a.mean_kl:.2g}" for _, a in columns],
    }
    return Table(("compared with", *(name for name, _ in columns)), tuple((name, *row) for name, row in rows.items()))


def tolerance_text(to: Kind, exported: "Exported") -> str:
    if to == "adapter":
        return (
            "transformers and peft loaded this folder and answered prompts of the run. Logits may differ by "
            f"{exported.tolerance:g} of the largest one, which is rounding."
        )
    return (
        "transformers loaded this folder and answered prompts of the run. Against the unquantised base with the "
        f"adapter beside it, logits may differ by {exported.tolerance:g} of the largest one: rounding. The model was "
        "tuned and measured on a quantised base: how far the two are apart is told here, and the same likeliest token "
        "is expected at nine places of ten."
    )


def _share(agreement: "Agreement") -> str:
    return f"{100 * agreement.same_choices:.1f} %"


def _report(final: FinalModel) -> dict[str, object]:
    path = final.run.folder / "report.json"
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedFile(str(path), f"is not JSON: {error}", None, "remove it and run the pipeline again") from error
    return report if isinstance(report, dict) else {}


def _metrics(final: FinalModel, report: dict[str, object]) -> tuple[Table | None, str]:
    """The report's table, and the column that this model is."""
    metrics = report.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        return None, ""
    data = ReportData(
        final.run.name, ConstitutionFacts("", "", "", "", ()), {}, tuple(from_dict(MetricRow, m) for m in metrics)
    )
    models = table_models(data)
    arrows = {"higher": "↑", "lower": "↓"}
    shown = tuple((f"{arrows[row.better]} {row.metric}", *row.values) for row in result_table(data))
    return Table(("", *models), shown), _column(final, models)


def _column(final: FinalModel, models: list[str]) -> str:
    last = [stage for stage in final.run.stages if stage.kind in TRAINING][-1]
    names = [TUNED] if final.stage == last else [final.stage.kind, f"{final.stage.number:02d}-{final.stage.kind}"]
    return next((name for name in names if name in models), "")
