"""How large a model is, from its files alone: config.json, and the headers of its safetensors where they are at hand.

No weight is read and no torch is loaded, so this works before anything is loaded, and for models that lie elsewhere.
What the sizes come to in memory is `memory`'s.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from cai.errors import InputError

_MAX_HEADER = 100 << 20
"""The longest safetensors header that the format allows."""
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.(?:.*\.)?(\w+)\.weight$")
_HEAD_NORMS = ("qwen3", "gemma3_text", "olmo2")
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix that quantisation and LoRA apply to, such as `q_proj`."""

    name: str
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes. Counts are of numbers, not of bytes."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    """The width inside a layer's feed-forward part."""
    vocabulary: int
    linears: tuple[Linear, ...]
    """Of all layers together."""
    plain: int
    """Parameters that stay in 16 or 32 bits: embeddings, head, norms, biases."""
    head_norms: bool = False
    """Whether queries and keys have norms of their own, as in Qwen 3."""
    context: int | None = None
    """The longest sequence, as the model says."""
    stored: int = 0
    """Bytes of its weight files; 0 where only the configuration is known."""
    stored_width: int = 2
    """Bytes of one stored number."""

    @property
    def linear(self) -> int:
        """Parameters of the linear layers, which can be quantised and adapted."""
        return sum(each.size for each in self.linears)

    @property
    def parameters(self) -> int:
        return self.plain + self.linear

    @property
    def bound(self) -> int:
        """An upper bound of the parameters, from the files' size at two bytes each, where there are files."""
        return self.stored // 2 or self.parameters

    @property
    def targets(self) -> frozenset[str]:
        return frozenset(linear.name for linear in self.linears)


def shape_of(place: Path) -> Shape:
    """Of a model's folder, or of a lone config.json; `InputError` where its sizes do not stand there."""
    config = place / "config.json" if place.is_dir() else place
    try:
        plain = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(config), f"cannot be read as JSON ({error})", None, "give a model's config.json") from None
    if not isinstance(plain, dict):
        raise InputError(str(config), "is not a JSON object", None, "give a model's config.json")
    shape = shape_from_config(plain, str(config))
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if not files:
        return shape
    headers: dict[str, Mapping[str, object]] = {}
    for path in files:
        headers |= _header(path)
    return _measured(shape, headers, tied=bool(_text_part(plain).get("tie_word_embeddings")))


def shape_from_config(config: Mapping[str, object], place: str = "config.json") -> Shape:
    """The sizes of a decoder whose layers hold four attention and three feed-forward matrices, as Llama's do."""
    config = _text_part(config)
    if _number(config, "num_experts") or _number(config, "num_local_experts"):
        raise InputError(place, "mixtures of experts are not estimated", config.get("model_type"), "use a dense model")
    layers, width, heads, vocabulary = (
        _required(config, place, *names)
        for names in (
            ("num_hidden_layers", "n_layer"),
            ("hidden_size", "n_embd"),
            ("num_attention_heads", "n_head"),
            ("vocab_size",),
        )
    )
    key_heads = _number(config, "num_key_value_heads") or heads
    head_width = _number(config, "head_dim") or width // heads
    inner = _number(config, "intermediate_size", "n_inner") or 4 * width
    queries, keys = heads * head_width, key_heads * head_width
    layer = (
        Linear("q_proj", width, queries),
        Linear("k_proj", width, keys),
        Linear("v_proj", width, keys),
        Linear("o_proj", queries, width),
        Linear("gate_proj", width, inner),
        Linear("up_proj", width, inner),
        Linear("down_proj", inner, width),
    )
    tied = config.get("tie_word_embeddings", False)
    plain = vocabulary * width * (1 if tied else 2) + (2 * layers + 1) * width
    context = _number(config, "max_position_embeddings", "n_positions") or None
    norms = config.get("model_type") in _HEAD_NORMS
    return Shape(layers, width, heads, key_heads, head_width, inner, vocabulary, layer * layers, plain, norms, context)


def _text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """The language model's part of a configuration that has others beside it."""
    inside = config.get("text_config")
    return inside if isinstance(inside, dict) else config


def _measured(shape: Shape, headers: Mapping[str, Mapping[str, object]], *, tied: bool) -> Shape:
    """The same with what the files hold in place of what the configuration suggests."""
    linears, plain, stored, width = [], 0, 0, 2
    for name, entry in headers.items():
        sizes = entry.get("shape")
        numbers = [int(n) for n in sizes] if isinstance(sizes, list) else []
        count = prod(numbers)
        stored += count * _WIDTHS.get(str(entry.get("dtype")), 2)
        width = max(width, _WIDTHS.get(str(entry.get("dtype")), 2))
        found = _LAYER.search(f".{name}")
        if found and len(numbers) == 2:
            linears.append(Linear(found[2], numbers[1], numbers[0]))
        elif not (tied and name.endswith("lm_head.weight") and len(headers) > 1):
            plain += count
    shape = replace(shape, stored=stored, stored_width=width)
    if not linears:
        return shape
    return replace(shape, linears=tuple(linears), plain=plain, head_norms=any(".q_norm." in name for name in headers))


def _header(path: Path) -> dict[str, Mapping[str, object]]:
    """The names, types and shapes in a safetensors file: its first bytes, https://github.com/huggingface/safetensors."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER:
                raise ValueError(f"header of {length} bytes")
            plain = json.loads(file.read(length))
            if not isinstance(plain, dict):
                raise ValueError("header is no object")
    except (OSError, ValueError) as error:
        raise InputError(
            str(path), f"is no safetensors file ({error})", None, "copy or fetch the model again"
        ) from None
    return {name: entry for name, entry in plain.items() if name != "__metadata__" and isinstance(entry, dict)}


def _numbers(config: Mapping[str, object], names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            yield value


def _number(config: Mapping[str, object], *names: str) -> int:
    return next(_numbers(config, names), 0)


def _required(config: Mapping[str, object], place: str, *names: str) -> int:
    found = _number(config, *names)
    if not found:
        raise InputError(place, f"does not say '{names[0]}', which the estimate needs", None, "give a decoder's config")
    return found
