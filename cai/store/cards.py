"""Model cards: the README of an exported model, with the front matter that the hub reads.

A card tells what the model is, what it was measured at, how far the export says what the run's own model says, and how
it is loaded. It names no path of the machine that it was written on. What stands in it is gathered by
`pipeline.export`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["adapter", "merged", "ollama"]


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
    adapter: str
    """The shape of the adapter, in words."""
    stages: tuple[str, ...]
    constitution: str
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
            _table(card.metrics),
        ]
    parts += ["## The export, read again", card.tolerance, _table(card.agreement), *card.notes]
    parts += ["## How it was made", _made(card)]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> str:
    on_hub = card.revision is not None
    lines = [f"base_model: {_quoted(card.base)}"] if on_hub else []
    if on_hub:
        lines.append(f"base_model_relation: {'adapter' if card.kind == 'adapter' else 'finetune'}")
    lines.append(f"library_name: {'peft' if card.kind == 'adapter' else 'transformers'}")
    lines.append(f"license: {_quoted(card.licence or 'other')}")
    if card.licence is None:
        lines.append("license_name: that-of-the-base-model")
        if on_hub:
            lines.append(f"license_link: {_quoted(f'https://huggingface.co/{card.base}')}")
    tags = ["constitutional-ai", "rlaif", *(["lora"] if card.kind == "adapter" else []), "cai"]
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
    return f"{what} It was aligned to the constitution {card.constitution}."


def _loading(card: Card) -> str:
    if card.kind == "ollama":
        return _code("sh", ["ollama create my-model -f Modelfile", "ollama run my-model"])
    if card.kind == "merged":
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", 'FOLDER = "."  # this folder']
        lines += ['model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype="auto")', *_asking("FOLDER")]
        return _code("python", lines)
    return _code("python", _adapter_code(card))


def _adapter_code(card: Card) -> list[str]:
    base = f'BASE, REVISION = "{card.base}", "{card.revision}"'
    if card.revision is None:
        base = f'BASE, REVISION = "{card.base}", None  # the folder of the base model'
    quantized = card.quantization in ("nf4", "int8")
    names = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantized else "")
    lines = ["import torch", "from peft import PeftModel", f"from transformers import {names}", ""]
    lines += ['FOLDER = "."  # this folder', base]
    settings = "revision=REVISION, dtype=DTYPE"
    lines.append("DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32")
    if card.quantization == "nf4":
        lines += [
            "QUANTIZED = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            "    bnb_4bit_compute_dtype=DTYPE,",
            ")",
        ]
    elif quantized:
        lines.append("QUANTIZED = BitsAndBytesConfig(load_in_8bit=True)")
    if quantized:
        settings += ", quantization_config=QUANTIZED"
    lines.append(f"base = AutoModelForCausalLM.from_pretrained(BASE, {settings})")
    return [*lines, "model = PeftModel.from_pretrained(base, FOLDER)", *_asking("FOLDER")]


def _asking(folder: str) -> list[str]:
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({folder})",
        'messages = [{"role": "user", "content": "Who are you?"}]',
        'how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}',
        "asked = tokenizer.apply_chat_template(messages, **how)",
        "answer = model.generate(**asked.to(model.device), max_new_tokens=64)",
        'print(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _made(card: Card) -> str:
    stages = "\n".join(f"{i}. {stage}" for i, stage in enumerate(card.stages, 1))
    return f"{stages}\n\nMade with {card.versions}."


def _table(table: Table) -> str:
    rule = tuple("---" if i == 0 else "---:" for i in range(len(table.head)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.head, rule, *table.rows))


def _code(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _quoted(text: str) -> str:
    """A value that YAML reads as this text, whatever is in it: JSON's strings are YAML's."""
    plain = text.replace("-", "").replace("/", "").replace(".", "").replace("_", "")
    return text if plain.isalnum() and plain[:1].isalpha() else json.dumps(text)
