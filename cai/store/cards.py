"""Model cards: the README of an exported model, with the front matter that the hub reads.

A card tells what the model is, what it was measured at, how far the export says what the run's own model says, and how
it is loaded. It names no path of the machine that it was written on. What stands in it is gathered by
`pipeline.export`.
"""

from dataclasses import dataclass
from typing import Literal

from cai.store.card_parts import Loading, Table, adapter_code, asking, code_block, quoted, table_text

Kind = Literal["adapter", "merged", "ollama"]


@dataclass(frozen=True, slots=True)
class Card:
    kind: Kind
    name: str
    """Run and stage, such as `quickstart/05-dpo`."""
    base: str
    revision: str | None
    """The base's commit on the hub; None where it lay in a folder."""
    licence: str | None
    """As the hub abbreviates licences; None is the base's own."""
    quantization: str
    precision: str
    """`auto`, `fp32` or `bf16`."""
    adapter: str
    """The shape of the adapter, in words."""
    stages: tuple[str, ...]
    constitution: str
    """Id and version; empty where rows alone decided what was learnt."""
    metrics: Table | None
    column: str
    """Which column of the metrics is this model."""
    agreement: Table
    tolerance: str
    notes: tuple[str, ...]
    versions: str


def model_card(card: Card) -> str:
    """The README, front matter first."""
    parts = [_front_matter(card), f"# {card.name}", _what(card), "## Loading", _loading(card)]
    if card.metrics:
        column = (
            f" This model is the column `{card.column}`." if card.column else " This model has no column of its own."
        )
        parts += [
            "## Measured",
            f"By the run that made it, on the {card.quantization} base.{column}",
            table_text(card.metrics),
        ]
    parts += ["## The export, read again", card.tolerance, table_text(card.agreement), *card.notes]
    parts += ["## How it was made", _made(card)]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> str:
    on_hub = card.revision is not None
    lines = [f"base_model: {quoted(card.base)}"] if on_hub else []
    if on_hub:
        lines.append(f"base_model_relation: {'adapter' if card.kind == 'adapter' else 'finetune'}")
    lines.append(f"library_name: {'peft' if card.kind == 'adapter' else 'transformers'}")
    lines.append(f"license: {quoted(card.licence or 'other')}")
    if card.licence is None:
        lines.append("license_name: that-of-the-base-model")
        if on_hub:
            lines.append(f"license_link: {quoted(f'https://huggingface.co/{card.base}')}")
    tags = ["constitutional-ai", "rlaif"] if card.constitution else []
    tags += [*(["lora"] if card.kind == "adapter" else []), "cai"]
    lines += ["pipeline_tag: text-generation", f"tags: [{', '.join(tags)}]"]
    return "\n".join(["---", *lines, "---"])


def _what(card: Card) -> str:
    base = f"[{card.base}](https://huggingface.co/{card.base})" if card.revision else f"`{card.base}`"
    commit = f" (commit `{card.revision}`)" if card.revision else " (a model from a folder, not from the hub)"
    what = {
        "adapter": f"A LoRA adapter ({card.adapter}) for {base}{commit}.",
        "merged": f"{base}{commit} with a LoRA adapter ({card.adapter}) added to its own weights.",
        "ollama": f"{base}{commit} with a LoRA adapter ({card.adapter}) added to its own weights, and a Modelfile.",
    }[card.kind]
    return f"{what} It was aligned to the constitution {card.constitution}." if card.constitution else what


def _loading(card: Card) -> str:
    if card.kind == "ollama":
        return code_block("sh", ["ollama create my-model -f Modelfile", "ollama run my-model"])
    if card.kind == "merged":
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", 'FOLDER = "."  # this folder']
        lines += ['model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto")', *asking("FOLDER")]
        return code_block("python", lines)
    return code_block(
        "python", adapter_code(Loading(card.base, card.revision, card.quantization, precision=card.precision))
    )


def _made(card: Card) -> str:
    stages = "\n".join(f"{i}. {stage}" for i, stage in enumerate(card.stages, 1))
    return f"{stages}\n\nMade with {card.versions}."
