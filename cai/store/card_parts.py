"""What model cards are made of: tables, quoted values, and the few lines of Python that load a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Loading:
    """How an adapter's folder is loaded by transformers and peft."""

    base: str
    revision: str | None
    """The base's commit on the hub; None where it lay in a folder."""
    quantization: str
    tokenizer: str = "FOLDER"
    """Whether the tokenizer lies beside the adapter, or `BASE`."""
    scores: bool = False
    """Whether it is a reward model, which answers with one number."""
    precision: str = "auto"


_DTYPES = {"fp32": "torch.float32", "bf16": "torch.bfloat16"}
_AUTO_DTYPE = "torch.bfloat16 if torch.cuda.is_available() else torch.float32"


def adapter_code(loading: Loading) -> list[str]:
    """A program that loads an adapter and asks it something."""
    base = f'BASE, REVISION = "{loading.base}", "{loading.revision}"'
    if loading.revision is None:
        base = f'BASE, REVISION = "{loading.base}", None  # the folder of the base model'
    kind = "AutoModelForSequenceClassification" if loading.scores else "AutoModelForCausalLM"
    quantized = loading.quantization in ("nf4", "int8")
    names = f"{kind}, AutoTokenizer" + (", BitsAndBytesConfig" if quantized else "")
    lines = ["import torch", "from peft import PeftModel", f"from transformers import {names}", ""]
    lines += ['FOLDER = "."  # this folder', base]
    settings = "revision=REVISION, dtype=DTYPE" + (", num_labels=1" if loading.scores else "")
    lines.append(f"DTYPE = {_DTYPES.get(loading.precision, _AUTO_DTYPE)}")
    if loading.quantization == "nf4":
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
    lines.append(f"base = {kind}.from_pretrained(BASE, {settings})")
    asked = scoring(loading.tokenizer) if loading.scores else asking(loading.tokenizer)
    return [*lines, "model = PeftModel.from_pretrained(base, FOLDER)", *asked]


def asking(tokenizer: str) -> list[str]:
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
        'messages = [{"role": "user", "content": "Who are you?"}]',
        'how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}',
        "asked = tokenizer.apply_chat_template(messages, **how)",
        "answer = model.generate(**asked.to(model.device), max_new_tokens=64)",
        'print(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def scoring(tokenizer: str) -> list[str]:
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
        'said = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A small model."}]',
        'read = tokenizer.apply_chat_template(said, return_tensors="pt", return_dict=True)',
        "print(model(**read.to(model.device)).logits.item())",
    ]


def table_text(table: Table) -> str:
    rule = tuple("---" if i == 0 else "---:" for i in range(len(table.head)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.head, rule, *table.rows))


def code_block(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def quoted(text: str) -> str:
    """A value that YAML reads as this text, whatever is in it: JSON's strings are YAML's."""
    plain = text.replace("-", "").replace("/", "").replace(".", "").replace("_", "")
    return text if plain.isalnum() and plain[:1].isalpha() else json.dumps(text)
