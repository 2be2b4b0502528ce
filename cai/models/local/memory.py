"""What a model needs in memory, part by part, before anything is loaded: arithmetic on sizes, without torch.

`cai plan` and the loader ask the same functions. Sizes come from `shape`; what fits where, and what to change, is
`fitting`'s, how much is generated together `width`'s; how well this agrees with measured peaks is shown by
bench/memory.py and told in docs/memory.md.
Names: N parameters, D hidden width, A width of all query heads, K of all key heads, F inner width, r rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cai.models.local.shape import Shape
from cai.models.local.spec import LoraSpec, Precision, Quantization

GIB = 1024**3

Device = Literal["cpu", "cuda"]
Phase = Literal["load", "generate", "judge", "train"]
Method = Literal["sft", "dpo", "reward", "policy", "ppo"]
"""Of those that learn from rewards, `ppo` has a value beside its policy; `policy` is RLOO or GRPO."""

PREFILL_TOKENS = 4096
"""New positions of one pass over prompts; `decode` says the same."""
KEPT_BYTES = 512 << 20
"""Keys and values that are kept for later calls; the workbench says the same."""
PASS_TOKENS = 2048
"""New positions of one pass of judgements; `choices` says the same."""
TILE_LOGITS: dict[Device, int] = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Logits held at once; `head` says the same."""
DENSE_SHARE = 4
"""A CPU keeps dense copies of 4-bit weights when they take at most this fraction (1/4) of the machine's memory."""
REPLICA_SHARE = 8
"""The fraction (1/8) of a machine's memory that dense replicas of adapted weights may take on a CPU."""
GPU_REPLICA_SHARE = 3
"""The fraction (1/3) of what a loaded model leaves of a GPU that they may take there."""

_VERBS: dict[Phase, str] = {"load": "loading", "generate": "generating", "judge": "judging", "train": "training"}
_BLOCK, _NESTED_BLOCK = 64, 256
"""bitsandbytes: 4-bit values that share a scale, and scales that share a scale of their own."""
_LAYER_CODES = 4 * 16 + 4 * 256 + 4
"""Bytes beside each 4-bit matrix: its code book, that of its scales, and the mean of its scales."""
_CONTEXT: dict[Device, int] = {"cpu": 520 << 20, "cuda": 640 << 20}
"""What is taken before the first weight: interpreter and libraries, or the CUDA context with cuBLAS workspaces."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PhaseNeed:
    """What is in memory at the fullest moment of a phase."""

    phase: Phase
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def verb(self) -> str:
        return _VERBS[self.phase]

    def of(self, name: str) -> int:
        return sum(part.bytes for part in self.parts if part.name == name)


@dataclass(frozen=True, slots=True)
class Setup:
    """A model as it is to be held."""

    shape: Shape
    quantization: Quantization = "nf4"
    device: Device = "cuda"
    lora: LoraSpec = field(default_factory=LoraSpec)
    adapters: int = 0
    """Adapters that are resident whatever is done: those that views speak through."""
    dense_copies: bool = False
    """Whether 4-bit weights have a dense copy beside them, as on a CPU with room for it."""
    replicas: int = 0
    """How many adapters may have a dense replica of the linear layers while they generate or judge."""

    precision: Precision = "auto"

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with. A GPU of which nothing is known is taken for one that has bf16."""
        if self.precision == "auto":
            return 4 if self.device == "cpu" else 2
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True, slots=True)
class Judging:
    """The largest pass over given texts: `rows` of `length` tokens."""

    rows: int
    length: int


@dataclass(frozen=True, slots=True)
class Training:
    """The largest pass with gradients: `rows` sequences of `length` tokens, `scored` of them completion."""

    method: Method
    rows: int
    length: int
    scored: int
    continued: bool = False
    """Goes on from an adapter, of which a frozen copy is the reference; else the reference is the base."""
    checkpointing: bool = False
    """Keeps each layer's input only and computes the rest again in the backward pass."""
    shared: int = 0
    """Tokens of a prompt that rows have in common, and that are computed once."""
    family: int = 2
    """How many rows have one in common."""
    scorers: int = 0
    """Reward models that are there as well."""

    @property
    def tokens(self) -> int:
        """What a pass computes."""
        return self.rows * self.length - (self.rows - -(-self.rows // self.family)) * self.shared

    @property
    def trained(self) -> int:
        """Adapters that are trained."""
        return 2 if self.method == "ppo" else 1

    @property
    def references(self) -> int:
        """Frozen copies of what it goes on from. A reward model is compared with nothing."""
        return int(self.continued and self.method != "reward")


@dataclass(frozen=True, slots=True)
class Generating:
    """The largest batch of a generation: `rows` prompts of `prompt` tokens, `reply` new ones each."""

    rows: int
    prompt: int
    reply: int
    sampled: bool = True
    """Drawn by probability, which is done in fp64; else the likeliest token is taken."""
    kept: int = KEPT_BYTES
    """Bytes of keys and values that are kept for later calls, at most."""
    total: int | None = None
    """Rows of which anything is kept, where that is known."""
    within: Training | None = None
    """The training that it is a part of: that one's adapters and moments are there as well."""

    @property
    def length(self) -> int:
        return self.prompt + self.reply


Work = Generating | Judging | Training


def need(setup: Setup, work: Work | None = None) -> PhaseNeed:
    """What doing this work with this model takes; without work, what holding it takes."""
    match work:
        case None:
            return PhaseNeed("load", _present((*_resident(setup), Part("reading", _reading(setup)))))
        case Generating():
            learning = _learning(setup, work.within) if work.within else ()
            asked = _asked(setup, 1 if work.within else 0)
            return PhaseNeed("generate", _present((*asked, *learning, *_generating(setup, work))))
        case Judging():
            return PhaseNeed("judge", _present((*_asked(setup), *_judging(setup, work))))
        case Training():
            return PhaseNeed("train", _present((*_resident(setup), *_training(setup, work))))


def peak(needs: Sequence[PhaseNeed]) -> PhaseNeed:
    return max(needs, key=lambda each: each.bytes)


def weight_bytes(shape: Shape, quantization: Quantization, width: int) -> int:
    """The base itself, to the byte. Embeddings, head and norms are never quantised."""
    plain = shape.plain * width
    if quantization == "none":
        return plain + shape.linear * width
    if quantization == "int8":
        return plain + sum(linear.size + 4 * linear.outputs for linear in shape.linears)
    return plain + sum(four_bit_bytes(linear.size) for linear in shape.linears)


def four_bit_bytes(count: int) -> int:
    """A matrix of `count` numbers as NF4 with double quantisation: half a byte each, a byte for every 64, and an fp32
    number for every 64 × 256. Dettmers et al. 2023, QLoRA, section 3."""
    blocks = -(-count // _BLOCK)
    return -(-count // 2) + blocks + 4 * -(-blocks // _NESTED_BLOCK) + _LAYER_CODES


def adapter_parameters(shape: Shape, lora: LoraSpec) -> int:
    adapted = [linear for linear in shape.linears if not lora.targets or linear.name in lora.targets]
    return sum(lora.rank * (linear.inputs + linear.outputs) for linear in adapted)


def keeps_dense_copies(taken: int, memory: int) -> bool:
    """Whether a CPU with this much memory keeps dense copies of 4-bit weights, which take so many bytes."""
    return taken <= memory // DENSE_SHARE


def cache_bytes(setup: Setup) -> int:
    """Keys and values of one position."""
    shape = setup.shape
    return 2 * shape.layers * shape.key_heads * shape.head_width * setup.width


def _resident(setup: Setup) -> tuple[Part, ...]:
    shape, linear = setup.shape, setup.shape.linear
    # A CPU uses embeddings and norms where they lie in the mapped file, if they are stored in the type that is computed
    # in, and what else was read of the file stays.
    lie = setup.device == "cpu" and setup.quantization != "none" and shape.stored_width == setup.width
    mapped = setup.width * linear if lie else 0
    return (
        Part("before loading", _CONTEXT[setup.device]),
        Part("weights", weight_bytes(shape, setup.quantization, setup.width)),
        Part("weight file, mapped", mapped),
        Part("dense copies of 4-bit weights", _dense_bytes(setup)),
        Part("adapters", 4 * setup.adapters * adapter_parameters(shape, setup.lora)),
    )


def held_bytes(setup: Setup) -> int:
    """What is there once the model is loaded."""
    return sum(part.bytes for part in _resident(setup))


def _asked(setup: Setup, learning: int = 0) -> tuple[Part, ...]:
    """What is held while a model is asked: replicas too, which go when training begins; one of a policy that learns
    is made for each of its rounds."""
    count = min(setup.replicas, setup.adapters + learning)
    return (*_resident(setup), Part("dense replicas", count * setup.width * setup.shape.linear))


def _reading(setup: Setup) -> int:
    """While loading: the file that is read, where its numbers have another form, and a matrix on its way to its own.
    Both are gone when dense copies are made, so only what is above those counts."""
    shape = setup.shape
    file = shape.stored if setup.device == "cpu" and shape.stored_width != setup.width else 0
    matrix = max(linear.size for linear in shape.linears) * setup.width if setup.quantization != "none" else 0
    return max(0, file + matrix - _dense_bytes(setup))


def _dense_bytes(setup: Setup) -> int:
    return setup.width * setup.shape.linear if setup.dense_copies and setup.quantization == "nf4" else 0


def _generating(setup: Setup, work: Generating) -> tuple[Part, ...]:
    length = work.prompt + work.reply
    each = cache_bytes(setup)
    cache = work.rows * length * each
    kept = work.kept if work.total is None else min(work.kept, work.total * length * each)
    logits = drawing_bytes(setup, work.rows, sampled=work.sampled)
    # Beside the cache, while it grows, one layer's old keys and values.
    working = max(pass_bytes(setup, min(work.rows * work.prompt, PREFILL_TOKENS)), cache // setup.shape.layers + logits)
    return (
        Part("keys and values", cache),
        Part("kept keys and values", kept),
        Part("recorded steps", step_bytes(setup, work.rows)),
        Part("under way", working),
    )


def drawing_bytes(setup: Setup, rows: int, *, sampled: bool = True) -> int:
    """fp32 logits; drawing: fp64 logits, probabilities and running sums."""
    return rows * setup.shape.vocabulary * (4 + (3 * 8 if sampled else 0))


def step_bytes(setup: Setup, rows: int) -> int:
    """What recorded steps hold on a GPU: their logits, and the inside of a step, for which they have a pool of their
    own. Nothing is recorded on a CPU."""
    if setup.device == "cpu":
        return 0
    return rows * setup.shape.vocabulary * (4 + 4 + setup.width) + pass_bytes(setup, rows)


def _judging(setup: Setup, work: Judging) -> tuple[Part, ...]:
    passes = pass_bytes(setup, work.rows * work.length)
    logits = 2 * 4 * work.rows * setup.shape.vocabulary
    return (Part("under way", max(passes, logits)),)


def pass_bytes(setup: Setup, tokens: int) -> int:
    """A pass without gradients at its fullest: inside a feed-forward part, with the residual beside it."""
    shape = setup.shape
    matrix = 0
    if setup.quantization != "none" and not setup.dense_copies:
        matrix = max(linear.size for linear in shape.linears) * setup.width
    return tokens * (2 * shape.width + 4 * shape.inner) * setup.width + matrix


def _training(setup: Setup, work: Training) -> tuple[Part, ...]:
    shape, tokens = setup.shape, work.tokens
    each = saved_bytes(setup)
    # The last layer is whole only at the positions that are scored; of the others it keeps what their keys are made of.
    asked = min(tokens, work.scored + work.rows)
    last = asked * each + (tokens - asked) * (4 * shape.width + 2 * _key_width(setup) * setup.width)
    # Every row has its own copy of the keys and values of a prompt that it shares.
    copies = 2 * _key_width(setup) * setup.width * (work.rows * work.length - tokens)
    saved = (shape.layers - 1) * tokens * each + last + shape.layers * copies
    if work.checkpointing:
        saved = shape.layers * setup.width * shape.width * tokens + each * tokens + copies
    tile = min(work.scored * shape.vocabulary, TILE_LOGITS[setup.device])
    # Logits of one tile, and of every scored position its hidden state, the states of all tiles, and their gradient.
    head = 4 * tile * (1 if setup.width == 4 else 2) + 3 * work.scored * shape.width * setup.width
    return (
        *_learning(setup, work),
        Part("gradients", 4 * work.trained * adapter_parameters(shape, setup.lora)),
        Part("activations", saved),
        Part("under way", max(head, _backward_bytes(setup, tokens))),
    )


def _learning(setup: Setup, work: Training) -> tuple[Part, ...]:
    """What a training has from one update to the next."""
    adapter = 4 * adapter_parameters(setup.shape, setup.lora)
    return (
        Part("trained adapters", (work.trained + work.references) * adapter),
        Part("reward models", work.scorers * adapter),
        Part("optimizer", 2 * work.trained * adapter),
    )


def saved_bytes(setup: Setup) -> int:
    """What one token leaves behind in one layer for the backward pass, in a layer as Llama's with LoRA beside its
    matrices. Frozen weights need no inputs; an adapter needs its own."""
    shape, lora = setup.shape, setup.lora
    adapted = [each for each in shape.linears if not lora.targets or each.name in lora.targets]
    queries, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    # Queries, keys and values as attention gathers them, what comes out, and that put back in place.
    attention = (3 * queries + 2 * _key_width(setup)) * setup.width + 4 * shape.heads
    # Gate and up; where they are not fused, the gate's activation too.
    fused = setup.device == "cpu" and setup.width == 4
    gate = (2 if fused else 3) * shape.inner * setup.width
    ranks = 4 * lora.rank * len(adapted) // shape.layers
    norms = 4 * (2 * shape.width + (queries + keys if shape.head_norms else 0))
    if setup.width == 4:
        # In fp32 an adapter's input is the tensor that is there already: two norms' outputs and the product of gate
        # and up; what comes out of attention was saved by it.
        inputs = 4 * (2 * shape.width + shape.inner) if adapted else 0
    else:
        inputs = 4 * sum(each.inputs for each in adapted) // shape.layers
    if setup.quantization == "int8":
        inputs += setup.width * (2 * shape.width + queries + shape.inner)
    return norms + attention + gate + ranks + inputs


def _key_width(setup: Setup) -> int:
    """Of a position's keys as attention reads them. A CPU's kernel wants those of every query's head."""
    shape = setup.shape
    return (shape.heads if setup.device == "cpu" else shape.key_heads) * shape.head_width


def _backward_bytes(setup: Setup, tokens: int) -> int:
    """The gradients under way inside a layer's feed-forward part, and a matrix unpacked for it."""
    shape = setup.shape
    matrix = 0
    if setup.quantization != "none" and not setup.dense_copies:
        matrix = max(linear.size for linear in shape.linears) * setup.width
    return tokens * 4 * (3 * shape.inner + 2 * shape.width) + matrix


def _present(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.bytes)
