"""Makes the embedded model from nothing: `python -m cai.models.tiny.make [FOLDER]`, under 25 minutes on two cores.

A byte-level BPE tokenizer is trained on the small world's own text, then a small Llama on its lessons. Hidden matrices
are trained by Muon (Jordan et al. 2024), the rest by AdamW; the learning rate is held and then falls to zero. The
training log is written beside the weights, and its first steps can be replayed.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.models.tiny.corpus import Lesson, lesson
from cai.models.tiny.weights import FOLDER
from cai.seeds import derive

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """One dial for each thing that was tuned."""

    vocabulary: int = 1536
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    feed_forward: int = 512
    steps: int = 1700
    lessons: int = 48
    warmup: int = 40
    decay_from: float = 0.55
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Batch:
    ids_BT: torch.Tensor
    labels_BT: torch.Tensor
    weights_B: torch.Tensor
    """A learned token weighs 1/√(the lesson's learned tokens), so a judgement's single letter is not drowned out."""


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer in which most words of the world are one token, and any text at all is some tokens."""
    texts = (m.content for i in range(6000) for m in lesson(derive(recipe.seed, "vocabulary", i)).messages)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        model_max_length=1024,
    )


def make_model(recipe: Recipe) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def train(recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Iterator[dict[str, float]]:
    """Trains in place and yields each step's number, loss and rate."""
    matrices, others = _parameters(model)
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    for step in range(recipe.steps):
        share = _rate(recipe, step)
        for optimizer, rate in ((muon, recipe.muon_rate), (adam, recipe.adam_rate)):
            optimizer.param_groups[0]["lr"] = rate * share
        total = torch.zeros(())
        batches = batches_of(recipe, tokenizer, step)
        weight = sum(float(((b.labels_BT != IGNORED).sum(1) * b.weights_B).sum()) for b in batches)
        for batch in batches:
            loss = _loss(model, batch) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield {"step": step, "loss": round(float(total), 5), "rate": round(share, 5)}


def batches_of(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, step: int) -> list[Batch]:
    """One step's lessons, sorted by length into three batches so that little of them is padding."""
    count = recipe.lessons
    rows = [encode(tokenizer, lesson(derive(recipe.seed, "lesson", step, i))) for i in range(count)]
    rows.sort(key=lambda row: len(row[0]))
    third = (count + 2) // 3
    return [_pad(rows[start : start + third]) for start in range(0, count, third)]


def encode(tokenizer: PreTrainedTokenizerFast, given: Lesson) -> tuple[list[int], list[int]]:
    """The ids of a lesson, and its labels: the learned turns with their ends."""
    ids: list[int] = []
    labels: list[int] = []
    for number, message in enumerate(given.messages):
        opening = tokenizer.convert_tokens_to_ids(f"<|{message.role}|>")
        body = [*tokenizer.encode(message.content, add_special_tokens=False), tokenizer.eos_token_id]
        ids += [opening, *body]
        labels += [IGNORED, *(body if number in given.learned else [IGNORED] * len(body))]
    return ids, labels


def write(folder: Path, recipe: Recipe) -> None:
    """Trains, prints progress, and writes weights, tokenizer and log."""
    started = time.monotonic()
    tokenizer, model = make_tokenizer(recipe), make_model(recipe)
    log = []
    for entry in train(recipe, model, tokenizer):
        log.append(entry)
        if entry["step"] % 50 == 0:
            print(
                f"step {entry['step']:5.0f}  loss {entry['loss']:.4f}  {time.monotonic() - started:6.0f} s", flush=True
            )
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kept = [e for e in log if e["step"] < 20 or e["step"] % 50 == 0 or e["step"] == recipe.steps - 1]
    lines = [json.dumps(e) for e in kept]
    (folder / "training_log.jsonl").write_text("\n".join(lines) + "\n")


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted cross-entropy of the learned tokens, summed; only their positions pass through the head."""
    hidden_BTD = model.model(batch.ids_BT, attention_mask=(batch.ids_BT != 0).long()).last_hidden_state
    wanted_BT = batch.labels_BT[:, 1:]
    chosen = wanted_BT != IGNORED
    logits_NV = model.lm_head(hidden_BTD[:, :-1][chosen])
    losses_N = torch.nn.functional.cross_entropy(logits_NV.float(), wanted_BT[chosen], reduction="none")
    return (losses_N * batch.weights_B[:, None].expand_as(chosen)[chosen]).sum()


def _pad(rows: list[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(ids) for ids, _ in rows)
    ids = [ids + [0] * (longest - len(ids)) for ids, _ in rows]
    labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]
    learned_B = (torch.tensor(labels) != IGNORED).sum(1)
    return Batch(torch.tensor(ids), torch.tensor(labels), learned_B.float().rsqrt())


def _parameters(model: LlamaForCausalLM) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    return matrices, [p for name, p in named if p.ndim != 2 or "embed" in name]


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = (recipe.steps - step) / (recipe.steps * (1 - recipe.decay_from))
    return min(1.0, left)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, Recipe())
