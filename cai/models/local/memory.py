"""What a model needs in memory, part by part, before anything is loaded: arithmetic on sizes, without torch.

`cai plan` and the loader ask the same functions. Sizes come from `shape`; what fits where, and what to change, is
`fitting`'s; how well this agrees with measured peaks is shown by bench/memory.py and told in docs/memory.md.
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
Method = Literal["sft", "dpo", "ppo"]

GENERATE_ROWS = 64
"""Rows that are generated together; `decode` says the same."""
GENERATE_TOKENS = 65_536
"""Cached positions of one batch; `decode` says the same."""
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

_VERBS: dict[Phase, str] = {"load": "loading", "generate": "generating", "judge": "judging", "train": "training"}
_BLOCK, _NESTED_BLOCK = 64, 256
"""bitsandbytes: 4-bit values that share a scale, and scales that share a scale of their own."""
_LAYER_CODES = 4 * 16 + 4 * 256 + 4
"""Bytes beside each 4-bit matrix: its code book, that of its scales, and the mean of its scales."""
_CONTEXT: dict[Device, int] = {"cpu": 520 << 20, "cuda": 640 << 20}
"""What is taken before the first weight: interpreter and libraries, or the CUDA context with cuBLAS workspaces."""
_ADAPTERS: dict[Method, tuple[int, int]] = {"sft": (1, 1), "dpo": (2, 1), "ppo": (4, 2)}
"""Adapters that a method holds, and how many of them it trains. PPO: policy and value, reference and reward."""


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
class Generating:
    """The largest batch of a generation: `rows` prompts of `prompt` tokens, `reply` new ones each."""

    rows: int
    prompt: int
    reply: int
    sampled: bool = True
    """Drawn by probability, which is done in fp64; else the likeliest token is taken."""
    kept: int = KEPT_BYTES
    """Bytes of keys and values that are kept for later calls."""

    @property
    def length(self) -> int:
        return self.prompt + self.reply


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
    """Goes on from an adapter, so that its reference is a frozen copy; else the reference is the base."""
    checkpointing: bool = False
    """Keeps each layer's input only and computes the rest again in the backward pass."""
    shared: int = 0
    """Tokens of the prompt that two rows have in common, and that are computed once."""

    @property
    def tokens(self) -> int:
        """What a pass computes."""
        return self.rows * self.length - self.rows // 2 * self.shared


Work = Generating | Judging | Training


@dataclass(frozen=True, slots=True)
class AtOnce:
    """How much is generated together, at most."""

    rows: int = GENERATE_ROWS
    tokens: int = GENERATE_TOKENS
    """Positions of all rows, with room for the longest of them in each."""

    def halved(self) -> "AtOnce":
        return AtOnce(self.rows // 2, self.tokens // 2)


USUAL = AtOnce()
MOST: dict[Device, AtOnce] = {"cpu": USUAL, "cuda": AtOnce(128, 131_072)}
"""However much memory there is."""
LEAST_TOKENS = 2048
"""Fewer are not planned for: an estimate may err, and a batch that does not fit is backed off from."""
WIDTH_SHARE = 0.85
"""The share of what is left beside the model that generating takes: allocators leave gaps, and others come and go."""


def at_once(setup: Setup, room: int) -> AtOnce:
    """How much can be generated together in so many bytes beside the model, in steps coarse enough for the next run on
    this machine to find the same."""
    most = MOST[setup.device]
    under_way = max(_pass_bytes(setup, PREFILL_TOKENS), _drawing_bytes(setup, most.rows))
    rest = int(WIDTH_SHARE * room) - KEPT_BYTES - under_way - _step_bytes(setup, most.rows)
    fitting = rest * setup.shape.layers // (cache_bytes(setup) * (setup.shape.layers + 1))
    tokens = LEAST_TOKENS
    while tokens < most.tokens and 2 * tokens <= fitting:
        tokens *= 2
    return AtOnce(most.rows, min(tokens, most.tokens))


def need(setup: Setup, work: Work | None = None) -> PhaseNeed:
    """What doing this work with this model takes; without work, what holding it takes."""
    match work:
        case None:
            return PhaseNeed("load", _present((*_resident(setup), Part("reading", _reading(setup)))))
        case Generating():
            return PhaseNeed("generate", _present((*_asked(setup), *_generating(setup, work))))
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


def _asked(setup: Setup) -> tuple[Part, ...]:
    """What is held while a model is asked: replicas too, which go when training begins."""
    count = min(setup.replicas, setup.adapters)
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
    logits = _drawing_bytes(setup, work.rows, sampled=work.sampled)
    # Beside the cache, while it grows, one layer's old keys and values.
    working = max(
        _pass_bytes(setup, min(work.rows * work.prompt, PREFILL_TOKENS)), cache // setup.shape.layers + logits
    )
    return (
        Part("keys and values", cache),
        Part("kept keys and values", work.kept),
        Part("recorded steps", _step_bytes(setup, work.rows)),
        Part("under way", working),
    )


def _drawing_bytes(setup: Setup, rows: int, *, sampled: bool = True) -> int:
    """fp32 logits; drawing: fp64 logits, probabilities and running sums."""
    return rows * setup.shape.vocabulary * (4 + (3 * 8 if sampled else 0))


def _step_bytes(setup: Setup, rows: int) -> int:
    """What recorded steps hold on a GPU: their logits, and the inside of a step, for which they have a pool of their
    own. Nothing is recorded on a CPU."""
    if setup.device == "cpu":
        return 0
    return rows * setup.shape.vocabulary * (4 + 4 + setup.width) + _pass_bytes(setup, rows)


def _judging(setup: Setup, work: Judging) -> tuple[Part, ...]:
    passes = _pass_bytes(setup, work.rows * work.length)
    logits = 2 * 4 * work.rows * setup.shape.vocabulary
    return (Part("under way", max(passes, logits)),)


def _pass_bytes(setup: Setup, tokens: int) -> int:
    """A pass without gradients at its fullest: inside a feed-forward part, with the residual beside it."""
    shape = setup.shape
    matrix = 0
    if setup.quantization != "none" and not setup.dense_copies:
        matrix = max(linear.size for linear in shape.linears) * setup.width
    return tokens * (2 * shape.width + 4 * shape.inner) * setup.width + matrix


def _training(setup: Setup, work: Training) -> tuple[Part, ...]:
    shape, tokens = setup.shape, work.tokens
    held, trained = _ADAPTERS[work.method]
    if work.method == "dpo" and not work.continued:
        held = 1
    adapter = 4 * adapter_parameters(shape, setup.lora)
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
        Part("trained adapters", held * adapter),
        Part("gradients", trained * adapter),
        Part("optimizer", 2 * trained * adapter),
        Part("activations", saved),
        Part("under way", max(head, _backward_bytes(setup, tokens))),
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
