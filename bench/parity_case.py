"""The trainings that both sides of the parity bench do: one small model, one adapter to start from, fixed rows, and the
settings of each method.

Every number is drawn by `cai.seeds` from names, without any library's generator, so two environments make equal files;
`identity` says whether they did. What is compared, and how closely, is `parity`'s.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cai.models.local.logprobs import TokenRow
from cai.seeds import derive, uniform
from cai.train.batches import Item, epoch_order, plan_batches
from cai.train.config import TrainConfig

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "train" / "golden"
"""Where the peer's numbers are kept: `parity.json`, and `parity.safetensors` with the final adapters."""
STEPS, ROWS = 20, 4
"""Updates, and rows (pairs, for preferences) behind each."""
PROMPTS, GENERATIONS, UPDATES = 2, 4, 4
"""Of a rollout: prompts, completions for each, and the updates that are made from it."""
COMPLETION_TOKENS = 16
"""The most a completion can have, which is what `dr_grpo` divides by."""
LEARNING_RATE, GRADIENT = 5e-3, 1.0
"""The constant rate where a method has none of its own, and the length that a longer gradient is scaled down to."""
RANK, ALPHA = 4, 8
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]
END = 2
VOCABULARY, WIDTH, INNER, LAYERS, HEADS, SHARED_HEADS = 96, 32, 64, 2, 4, 2
LETTERS = range(len(SPECIAL), VOCABULARY)
LOWER, UPPER = LETTERS[: len(LETTERS) // 2], LETTERS[len(LETTERS) // 2 :]
"""Chosen answers are made of the lower letters and rejected ones of the upper, so that there is something to learn."""
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH * SHARED_HEADS // HEADS, WIDTH),
    "self_attn.v_proj": (WIDTH * SHARED_HEADS // HEADS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Method:
    """One training: which of TRL's trainers does it, and its settings under TRL's names."""

    trainer: str
    settings: Mapping[str, object] = field(default_factory=dict)
    learning_rate: float = LEARNING_RATE
    margins: bool = False
    """Whether each pair asks for a margin of its own."""
    minibatches: int = 1
    """Into how many updates a rollout is split; it is gone over so often that there are `UPDATES` in all."""


def policy(trainer: str, learning_rate: float, *, minibatches: int = 1, **settings: object) -> Method:
    """A method on rollouts. Its rate is so low that most ratios are not clipped: a clipped one has no gradient."""
    return Method(trainer, settings, learning_rate, minibatches=minibatches)


METHODS = {
    "sft": Method("SFT"),
    "reward": Method("Reward"),
    "reward-centred": Method("Reward", {"center_rewards_coefficient": 0.01}, margins=True),
    "dpo": Method("DPO", {"loss_type": "sigmoid", "beta": 0.1}),
    "hinge": Method("DPO", {"loss_type": "hinge", "beta": 0.5}),
    "ipo": Method("DPO", {"loss_type": "ipo", "beta": 0.5}),
    "robust": Method("DPO", {"loss_type": "robust", "beta": 0.1, "label_smoothing": 0.1}),
    "kto": Method("KTO", {"loss_type": "kto", "beta": 0.1, "desirable_weight": 1.5, "undesirable_weight": 1.0}),
    "orpo": Method("ORPO", {"beta": 0.1}),
    "cpo": Method("CPO", {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0}),
    "cpo-smoothed": Method("CPO", {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 0.5, "label_smoothing": 0.1}),
    "simpo": Method("CPO", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}),
    "grpo": policy("GRPO", 1e-3, loss_type="grpo", beta=0.04, use_bias_correction_kl=False),
    "grpo-corrected": policy("GRPO", 1e-3, loss_type="grpo", beta=0.04, use_bias_correction_kl=True),
    "bnpo": policy("GRPO", 1e-3, loss_type="bnpo", beta=0.04, use_bias_correction_kl=False),
    "dr-grpo": policy("GRPO", 1e-3, loss_type="dr_grpo", beta=0.0, scale_rewards="none"),
    "dapo": policy("GRPO", 1e-3, minibatches=2, loss_type="dapo", beta=0.0),
    "rloo": policy("RLOO", 2e-4, beta=0.5),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training said at each update, None where it said nothing, and all weights that it ended with."""

    steps: dict[str, list[float | None]]
    adapter: torch.Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float

    @property
    def rows(self) -> tuple[TokenRow, TokenRow]:
        return TokenRow(self.prompt, self.chosen), TokenRow(self.prompt, self.rejected)


@dataclass(frozen=True, slots=True)
class Answer:
    """A single answer, and whether it is one to have more of."""

    id: str
    tokens: TokenRow
    desirable: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with the completions that are taken for sampled ones, and their rewards."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]


def pairs() -> list[Pair]:
    """In the order in which our trainers go over them, which depends on their ids alone."""
    ids = [f"pair-{i}" for i in range(STEPS * ROWS)]
    made = [Pair(i, _prompt(i), _answer(i, LOWER), _answer(i, UPPER), uniform(_seed(i), 0)) for i in ids]
    return [made[i] for i in epoch_order(ids, TrainConfig(learning_rate=LEARNING_RATE).seed, 0)]


def answers() -> list[Answer]:
    """The chosen answers as desirable rows and as many rejected ones, mixed, in the order of each batch's passes."""
    made = []
    for pair in pairs():
        desirable = uniform(_seed(pair.id), 1) < 0.5
        made.append(Answer(pair.id, pair.rows[0 if desirable else 1], desirable))
    items = [Item(each.id, len(each.tokens.prompt_ids) + len(each.tokens.completion_ids)) for each in made]
    batches = plan_batches(TrainConfig(learning_rate=LEARNING_RATE, batch_size=ROWS), items)
    return [made[row] for batch in batches for row in batch.rows]


def groups() -> list[Group]:
    """`PROMPTS` of them make a rollout."""
    made = []
    for i in range(PROMPTS * STEPS // UPDATES):
        drawn = [_answer(f"group-{i}-{k}", LETTERS) for k in range(GENERATIONS)]
        rewards = [round(uniform(_seed(f"group-{i}", "rewards"), k), 3) for k in range(GENERATIONS)]
        made.append(Group(_prompt(f"group-{i}"), tuple(drawn), tuple(rewards)))
    return made


def flat(adapter: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All weights of an adapter as one row, in the order of their names."""
    return torch.cat([adapter[name].flatten() for name in sorted(adapter)])


def text(ids: Sequence[int]) -> str:
    """What the tokenizer reads as exactly these tokens: every character is one."""
    return "".join(SPECIAL[i] if i < len(SPECIAL) else _letter(i) for i in ids)


def write_model(folder: Path) -> None:
    """A Llama of two layers with weights drawn by name, as transformers writes it, and a tokenizer of characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokens = {token: i for i, token in enumerate([*SPECIAL, *map(_letter, LETTERS)])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[END], pad_token=SPECIAL[0])
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=SHARED_HEADS,
        eos_token_id=END,
        bos_token_id=None,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    config.save_pretrained(folder)
    weights = {f"{name}.weight": _drawn(name, (VOCABULARY, WIDTH), 0.4) for name in ("model.embed_tokens", "lm_head")}
    for layer in range(LAYERS):
        place = f"model.layers.{layer}"
        weights |= {f"{place}.{name}.weight": _drawn(f"{place}.{name}", SHAPES[name], 0.4) for name in SHAPES}
        weights |= {f"{place}.{name}_layernorm.weight": torch.ones(WIDTH) for name in ("input", "post_attention")}
    save_file(weights | {"model.norm.weight": torch.ones(WIDTH)}, folder / "model.safetensors", {"format": "pt"})


def write_adapter(folder: Path, *, scores: bool) -> None:
    """A plain PEFT folder with nothing at zero; one that `scores` has a head."""
    from peft import LoraConfig

    targets = sorted(name.partition(".")[2] for name in SHAPES)
    kind = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]} if scores else {"task_type": "CAUSAL_LM"}
    LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=targets, inference_mode=True, **kind
    ).save_pretrained(str(folder))
    weights = {"score.weight": _drawn("score", (1, WIDTH), 0.3)} if scores else {}
    for layer in range(LAYERS):
        for name, (rows, columns) in SHAPES.items():
            place = f"model.layers.{layer}.{name}"
            weights[f"{place}.lora_A.weight"] = _drawn(f"{place}.A", (RANK, columns), 0.2)
            weights[f"{place}.lora_B.weight"] = _drawn(f"{place}.B", (rows, RANK), 0.1)
    prefixed = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
    save_file(prefixed, folder / "adapter_model.safetensors", {"format": "pt"})


def write_all(folder: Path) -> None:
    """`model/`, `adapter/` and `scorer/`."""
    for name in ("model", "adapter", "scorer"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_model(folder / "model")
    write_adapter(folder / "adapter", scores=False)
    write_adapter(folder / "scorer", scores=True)


def identity(folder: Path) -> str:
    """A digest of all weights, rows and settings: equal on both sides, or the comparison means nothing."""
    total = hashlib.sha256()
    for path in ("model/model.safetensors", "adapter/adapter_model.safetensors", "scorer/adapter_model.safetensors"):
        for name, tensor in sorted(load_file(folder / path).items()):
            total.update(name.encode() + tensor.numpy().tobytes())
    made: list[Pair | Answer | Group] = [*pairs(), *answers(), *groups()]
    rows = [asdict(row) for row in made]
    methods = {name: asdict(method) for name, method in METHODS.items()}
    numbers = [STEPS, ROWS, PROMPTS, GENERATIONS, UPDATES, COMPLETION_TOKENS, GRADIENT, RANK, ALPHA]
    total.update(json.dumps([rows, methods, numbers], sort_keys=True).encode())
    return total.hexdigest()


def _prompt(name: str) -> tuple[int, ...]:
    return _tokens(_seed(name, "prompt"), LETTERS, 3, 12)


def _answer(name: str, letters: range) -> tuple[int, ...]:
    return (*_tokens(_seed(name, "answer", letters.start), letters, 2, COMPLETION_TOKENS - 1), END)


def _tokens(seed: int, letters: range, fewest: int, most: int) -> tuple[int, ...]:
    length = fewest + int(uniform(seed, 0) * (most - fewest + 1))
    return tuple(letters[int(uniform(seed, 1 + i) * len(letters))] for i in range(length))


def _drawn(name: str, shape: tuple[int, int], bound: float) -> torch.Tensor:
    """Uniform between ±bound, computed in float64 and rounded once."""
    seed = _seed(name)
    values = [uniform(seed, i) for i in range(shape[0] * shape[1])]
    return ((torch.tensor(values, dtype=torch.float64) * 2 - 1) * bound).float().reshape(shape)


def _seed(*name: object) -> int:
    return derive("parity", *name)


def _letter(token: int) -> str:
    return chr(ord("!") + token - len(SPECIAL))
