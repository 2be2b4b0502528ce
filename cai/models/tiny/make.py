"""Makes the embedded model from nothing: `python -m cai.models.tiny.make [FOLDER]`, under 25 minutes on two cores.

A byte-level BPE tokenizer is trained on the small world's own text, then a small Llama on its lessons. Hidden matrices
are trained by Muon (Jordan et al. 2024), the rest by AdamW; the learning rate is held and then falls to zero. The
training log is written beside the weights, and its first steps can be replayed.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from cai.constitution import frames
from cai.models.tiny.corpus import Lesson, lesson
from cai.models.tiny.weights import FOLDER
from cai.seeds import derive

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
DECISION = 4.0
"""How much more the first token of a deciding turn weighs than the words after it."""
BATCHES = 8


@dataclass(frozen=True, slots=True)
class Phase:
    mixes: tuple[tuple[str, int], ...]
    """Which lessons, in which shares (see `corpus`), for how many steps."""
    rate: float
    """The highest learning rate, as a share of the recipe's."""
    decay_from: float
    """The share of the phase after which the rate begins to fall to zero."""

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.mixes)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One dial for each thing that was tuned."""

    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    feed_forward: int = 512
    lessons: int = 64
    phases: tuple[Phase, ...] = (
        Phase((("first", 1200), ("last", 1050)), rate=1.0, decay_from=0.5),
        Phase((("settle", 160),), rate=0.25, decay_from=0.0),
    )
    warmup: int = 40
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Row:
    ids: list[int]
    weights: list[float]
    """0 where nothing is learned; else 1/√(the lesson's learned tokens), so that a verdict is not drowned out."""


@dataclass(frozen=True, slots=True)
class Batch:
    ids_BT: torch.Tensor
    weights_BT: torch.Tensor


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer in which most words of the world are one token, and any text at all is some tokens.

    The fixed text of the frames is a token a piece: it stands around every principle and says nothing new.
    """
    pieces = frame_pieces()
    texts = (m.content for i in range(6000) for m in lesson(derive(recipe.seed, "vocabulary", i)).messages)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary - len(pieces),
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        model_max_length=1024,
    )


def frame_pieces() -> list[str]:
    """What the frames say between their blanks, longest first."""
    parts = (re.split(r"{\w+}", frame) for frame in (frames.CRITIQUE, frames.REVISION, frames.JUDGE, frames.SCORE))
    return sorted({piece for part in parts for piece in part if len(piece) > 3}, key=lambda piece: (-len(piece), piece))


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
    started = 0
    for phase in recipe.phases:
        yield from train_phase(recipe, phase, started, model, tokenizer)
        started += phase.steps


def train_phase(
    recipe: Recipe, phase: Phase, started: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> Iterator[dict[str, float]]:
    """One phase, with fresh optimizers; `started` is how many steps came before it."""
    matrices, others = _parameters(model)
    muon: torch.optim.Optimizer = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95)
    adam: torch.optim.Optimizer = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    mixes = [mix for mix, steps in phase.mixes for _ in range(steps)]
    for step, mix in enumerate(mixes):
        share = _rate(recipe, phase, step)
        for optimizer, rate in ((muon, recipe.muon_rate), (adam, recipe.adam_rate)):
            optimizer.param_groups[0]["lr"] = rate * share
        total = torch.zeros(())
        batches = batches_of(recipe, tokenizer, mix, started + step)
        weight = sum(float(batch.weights_BT.sum()) for batch in batches)
        for batch in batches:
            loss = _loss(model, batch) / weight
            torch.autograd.backward(loss)
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield {"step": started + step, "loss": round(float(total), 5), "rate": round(share, 5)}


def batches_of(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, mix: str, step: int) -> list[Batch]:
    """One step's lessons, sorted by length into a few batches so that little of them is padding."""
    count = recipe.lessons
    rows = [encode(tokenizer, lesson(derive(recipe.seed, "lesson", step, i), mix=mix)) for i in range(count)]
    rows.sort(key=lambda row: len(row.ids))
    size = -(-count // BATCHES)
    return [_pad(rows[start : start + size]) for start in range(0, count, size)]


def encode(tokenizer: PreTrainedTokenizerFast, given: Lesson) -> Row:
    """The ids of a lesson, and how much each of them is to be learned: the learned turns with their ends."""
    ids: list[int] = []
    weights: list[float] = []
    for number, message in enumerate(given.messages):
        body = [*tokenizer.encode(message.content, add_special_tokens=False), tokenizer.eos_token_id]
        ids += [tokenizer.convert_tokens_to_ids(f"<|{message.role}|>"), *body]
        learned = [1.0] * len(body) if number in given.learned else [0.0] * len(body)
        if number in given.decided:
            learned[0] = DECISION
        weights += [0.0, *learned]
    scale = sum(weight > 0 for weight in weights) ** -0.5
    return Row(ids, [weight * scale for weight in weights])


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
    lines = [json.dumps(e) for e in log if e["step"] < 20 or e["step"] % 50 == 0 or e is log[-1]]
    (folder / "training_log.jsonl").write_text("\n".join(lines) + "\n")


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted cross-entropy of the learned tokens, summed; the others' positions end at the last layer's keys."""
    weights_BT = batch.weights_BT[:, 1:]
    chosen_BT = weights_BT > 0
    logits_NV = model.lm_head(_hidden_at(model.model, batch.ids_BT[:, :-1], chosen_BT))
    losses_N = torch.nn.functional.cross_entropy(logits_NV.float(), batch.ids_BT[:, 1:][chosen_BT], reduction="none")
    return (losses_N * weights_BT[chosen_BT]).sum()


def _hidden_at(model: LlamaModel, ids_BT: torch.Tensor, chosen_BT: torch.Tensor) -> torch.Tensor:
    """The model's last hidden states at the chosen positions: behind the last attention nothing else is needed."""
    hidden_BTD = model.embed_tokens(ids_BT)
    rotary = model.rotary_emb(hidden_BTD, torch.arange(ids_BT.shape[1])[None])
    *layers, last = model.layers
    for layer in layers:
        # Rows are padded on the right, where a causal model does not look.
        hidden_BTD = layer(hidden_BTD, position_embeddings=rotary)
    attended_BTD, _ = last.self_attn(last.input_layernorm(hidden_BTD), position_embeddings=rotary, attention_mask=None)
    hidden_ND = (hidden_BTD + attended_BTD)[chosen_BT]
    normed_ND: torch.Tensor = model.norm(hidden_ND + last.mlp(last.post_attention_layernorm(hidden_ND)))
    return normed_ND


def _pad(rows: list[Row]) -> Batch:
    longest = max(len(row.ids) for row in rows)
    ids = [row.ids + [0] * (longest - len(row.ids)) for row in rows]
    weights = [row.weights + [0.0] * (longest - len(row.weights)) for row in rows]
    return Batch(torch.tensor(ids), torch.tensor(weights))


def _parameters(model: LlamaForCausalLM) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    return matrices, [p for name, p in named if p.ndim != 2 or "embed" in name]


def _rate(recipe: Recipe, phase: Phase, step: int) -> float:
    rising = (step + 1) / recipe.warmup
    falling = (1 - step / phase.steps) / (1 - phase.decay_from)
    return phase.rate * min(1.0, rising, falling)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, Recipe())
