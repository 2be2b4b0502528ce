"""The tensors and the tokenizer of an export: an adapter, a merged model, or one for Ollama, in a folder of its own.

Every export is read again by transformers and peft alone; one that does not say what it should is refused. Cards, names
and places are `pipeline.export`'s; the merged weights are `merging`'s, the comparison is `rereading`'s.
"""

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cai.errors import GateRefused
from cai.files import write_atomic
from cai.models.local.dialect import Dialect, modelfile, read_dialect
from cai.models.local.lora import CONFIG, WEIGHTS, Origin
from cai.models.local.merging import write_merged_weights
from cai.models.local.rereading import Agreement, Said, Source, agreement, read_again, say
from cai.models.local.spec import ModelSpec
from cai.models.local.templates import NAMED_FORMS
from cai.models.local.workbench import Workbench, open_workbench
from cai.records import Message

Target = Literal["adapter", "merged", "ollama"]

SAME_MODEL = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""The largest difference between logits, as a share of the largest logit, that rounding explains where the same weights
are computed in this type by other kernels."""
SAME_WEIGHTS = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2}
"""The same for merged weights, which are rounded to the type of the base's files."""
QUANTISED_CHOICES = 0.9
"""A merged model should like the same next token best as the tuned model on its quantised base at this share of the
tokens. Less is told, not refused: the merge is right, but the model was tuned and measured on other weights."""
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how it compares."""

    origin: Origin
    stored: str
    """The type of the weights in the files."""
    tuned: Agreement
    """With the model that the run made."""
    unrounded: Agreement | None
    """Of a merged model: with the base's own weights and the adapter beside them, which only rounding separates."""
    tolerance: float
    """Of the comparison that is exact but for rounding."""
    notes: tuple[str, ...]


def export(
    spec: ModelSpec, adapter: Path, to: Target, target: Path, conversations: Sequence[tuple[Message, ...]]
) -> Exported:
    """Fill an empty folder; `GateRefused` where what was written does not say what the tuned model says."""
    workbench = open_workbench(spec)
    dialect = _dialect(workbench) if to == "ollama" else None
    asked = say(workbench, adapter, conversations)
    facts = _Facts(
        workbench.base_folder,
        workbench.origin,
        workbench.device,
        workbench.network.dtype,
        tuple(sorted(workbench.stop_ids)),
        workbench.chat.end_of_turn_text,
    )
    # A merged model is as large as its base: they are not held at the same time.
    del workbench
    gc.collect()
    write_tokenizer(facts.base, target, spec.template)
    if to == "adapter":
        return _adapter(spec, adapter, target, facts, asked)
    stored = _write_model(adapter, target, facts)
    if dialect is not None:
        _write_modelfile(dialect, target, facts)
    return _compared(spec, adapter, target, facts, asked, stored)


def write_adapter(adapter: Path, target: Path, origin: Origin) -> None:
    """The adapter as it is, naming its base as others know it."""
    plain = json.loads((adapter / CONFIG).read_text("utf-8"))
    plain |= {"base_model_name_or_path": origin.base, "revision": origin.revision}
    write_atomic(target / CONFIG, json.dumps(plain, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(adapter / WEIGHTS, target / WEIGHTS)


def write_tokenizer(base: Path, target: Path, form: str | None) -> None:
    """The base's tokenizer and its template, or the named form that the run used in the template's place."""
    for pattern in (*_TOKENIZER, *(() if form else _TEMPLATES)):
        for path in base.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)
    if form:
        _set(target / "tokenizer_config.json", chat_template=None)
        write_atomic(target / "chat_template.jinja", NAMED_FORMS[form].source)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is left of the workbench when it is closed."""

    base: Path
    origin: Origin
    device: str
    dtype: torch.dtype
    """What the run's model computes in."""
    stop_ids: tuple[int, ...]
    end_of_turn: str


def _adapter(spec: ModelSpec, adapter: Path, target: Path, facts: _Facts, asked: Sequence[Said]) -> Exported:
    write_adapter(adapter, target, facts.origin)
    source = Source(facts.base, target, spec.quantization, facts.dtype, target)
    heard = agreement(asked, read_again(source, facts.device, facts.stop_ids, asked))
    tolerance = SAME_MODEL[facts.dtype]
    _require_same(heard, tolerance, facts.origin)
    return Exported(facts.origin, "f32", heard, None, tolerance, _notes(heard))


def _write_model(adapter: Path, target: Path, facts: _Facts) -> str:
    stored = write_merged_weights(facts.base, adapter, target)
    shutil.copyfile(facts.base / "config.json", target / "config.json")
    # Older versions of transformers noted there where the model once lay.
    _set(target / "config.json", _name_or_path=None)
    generation = target / "generation_config.json"
    if (facts.base / generation.name).is_file():
        shutil.copyfile(facts.base / generation.name, generation)
    # Whoever generates must stop where the template ends a turn, whether or not the base's own files know it.
    _set(generation, eos_token_id=list(facts.stop_ids))
    return stored


def _write_modelfile(dialect: Dialect, target: Path, facts: _Facts) -> None:
    _set(target / "tokenizer_config.json", add_bos_token=False)
    generation = json.loads((target / "generation_config.json").read_text("utf-8"))
    write_atomic(target / "Modelfile", modelfile(dialect, facts.end_of_turn, generation))


def _compared(
    spec: ModelSpec, adapter: Path, target: Path, facts: _Facts, asked: Sequence[Said], stored: str
) -> Exported:
    """The merge itself must be exact; how far it is from the quantised model is only told."""
    merged = read_again(Source(target, None, "none", facts.dtype, target), facts.device, None, asked)
    beside = read_again(Source(facts.base, adapter, "none", facts.dtype, target), facts.device, facts.stop_ids, asked)
    unrounded, tuned = agreement(beside, merged), agreement(asked, merged)
    tolerance = max(SAME_MODEL[facts.dtype], *(SAME_WEIGHTS.get(kind, 5e-2) for kind in stored.split(" and ")))
    _require_same(unrounded, tolerance, facts.origin)
    notes = _notes(tuned)
    if tuned.same_choices < QUANTISED_CHOICES:
        other, usual = 1 - tuned.same_choices, 1 - QUANTISED_CHOICES
        note = f"at {other:.0%} of the tokens the merged model likes another one best than the tuned model did on its "
        notes += (f"{note}{spec.quantization} base; up to {usual:.0%} is usual, so measure it again before it is used",)
    return Exported(facts.origin, stored, tuned, unrounded, tolerance, notes)


def _require_same(heard: Agreement, tolerance: float, origin: Origin) -> None:
    if not heard.relative_difference <= tolerance:
        raise GateRefused(
            f"{origin.base} with its adapter: read again by transformers, the export does not say what it should: "
            f"logits up to {heard.largest_logit:.3g} differ by {heard.largest_logit_difference:.3g}, and rounding "
            f"explains a share of {tolerance:g}; nothing was exported; report this with the model's name"
        )


def _notes(heard: Agreement) -> tuple[str, ...]:
    other = heard.answers - heard.same_prompts
    note = f"the export's chat template writes {other} of {heard.answers} prompts in another way than the run did"
    return (f"{note}; templates that ask for today's date do that",) if other else ()


def _dialect(workbench: Workbench) -> Dialect:
    def render(turns: Sequence[tuple[str, str]]) -> str:
        return workbench.chat.prompt_text([Message(role, content) for role, content in turns])  # type: ignore[arg-type]

    return read_dialect(workbench.origin.base, render)


def _set(path: Path, **values: object) -> None:
    """Change keys of a JSON file; None takes one out. A file that would stay as it is is not touched."""
    plain = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    changed = {key: value for key, value in (plain | values).items() if value is not None or key not in values}
    if changed != plain:
        write_atomic(path, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
