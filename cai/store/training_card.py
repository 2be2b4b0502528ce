"""The card beside an adapter that one trainer made alone: its base, data, settings and metrics, and how to load it.

It names no path of the machine that it was written on. What stands in it is gathered by `pipeline.alone`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cai.store.card_parts import Loading, Table, adapter_code, code_block, quoted, table_text


@dataclass(frozen=True, slots=True)
class TrainingCard:
    name: str
    method: str
    loading: Loading
    adapter: str
    """The adapter's shape, in words."""
    data: str
    """The data's name, without folders."""
    sha256: str
    counts: Mapping[str, int]
    rejects: Mapping[str, int]
    start: str
    """What the adapter went on from; empty for a fresh one."""
    settings: Mapping[str, object]
    metrics: Table
    versions: str


_WHAT = {
    "sft": "learnt from answers by supervised fine-tuning",
    "reward": "learnt from pairs to score answers: a reward model",
    "dpo": "learnt from pairs of a better and a worse answer by direct preference optimisation",
    "kto": "learnt from single answers, wanted and unwanted, by Kahneman-Tversky optimisation",
    "ppo": "learnt from rewards of its own answers by proximal policy optimisation",
    "grpo": "learnt from rewards of its own answers by group-relative policy optimisation",
    "rloo": "learnt from rewards of its own answers, each against the others to its prompt (REINFORCE leave-one-out)",
}


def training_card(card: TrainingCard) -> str:
    """The README, front matter first."""
    used, inputs = card.counts["outputs"], card.counts["inputs"]
    left_out = ", ".join(f"{count} {reason}" for reason, count in card.rejects.items()) or "none"
    rows = Table(
        ("", ""),
        (
            ("file", f"`{card.data}`"),
            ("SHA-256", f"`{card.sha256}`"),
            ("used", f"{used} of {inputs}"),
            ("left out", left_out),
        ),
    )
    settings = Table(("setting", "value"), tuple((f"`{name}`", f"`{value}`") for name, value in card.settings.items()))
    parts = [_front_matter(card), f"# {card.name}", _what(card), "## Loading"]
    parts += [code_block("python", adapter_code(card.loading)), "## Data", table_text(rows)]
    parts += ["## Metrics", "Of the training itself, at its first and its last update.", table_text(card.metrics)]
    parts += ["## Settings", table_text(settings), "## Limits", _limits(card), f"Made with {card.versions}."]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: TrainingCard) -> str:
    loading = card.loading
    lines = ["---"]
    if loading.revision is not None:
        lines += [f"base_model: {quoted(loading.base)}", "base_model_relation: adapter"]
    lines += ["library_name: peft", "license: other", "license_name: that-of-the-base-model"]
    task = "text-classification" if loading.scores else "text-generation"
    return "\n".join([*lines, f"pipeline_tag: {task}", f"tags: [{card.method}, lora, cai]", "---"])


def _what(card: TrainingCard) -> str:
    base = card.loading.base
    named = f"[{base}](https://huggingface.co/{base})" if card.loading.revision else f"`{base}`"
    commit = f" (commit `{card.loading.revision}`)" if card.loading.revision else ""
    went_on = f" It went on from `{card.start}`." if card.start else ""
    return f"A LoRA adapter ({card.adapter}) for {named}{commit}, {_WHAT[card.method]}.{went_on}"


def _limits(card: TrainingCard) -> str:
    told = [
        f"- It was trained on the base in {card.loading.quantization} and belongs to that base alone.",
        "- Nobody has measured it beyond the metrics above; it may answer wrongly, or not be safe to deploy.",
    ]
    if card.loading.quantization == "none":
        told[0] = "- It belongs to its base alone."
    if card.loading.scores:
        told.append(
            "- Its scores compare answers to one prompt. Their zero means nothing: subtract a mean of your own."
        )
    else:
        told.append("- What stands in the data is what it learnt; it was aligned to nothing else.")
    return "\n".join(told)
