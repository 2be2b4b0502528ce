"""The typed adapter around what transformers and bitsandbytes leave untyped: loading weights and tokenizer, and the two
repairs that bitsandbytes needs. PEFT has its own adapter in `lora`.

The repairs (docs/decisions/bitsandbytes-trap.md): `Linear4bit` must not repack its weights for the bf16 kernel of
CPUs with AVX512-BF16, and importing bitsandbytes must not ask the hub for kernels.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cai.models.local.machine import precision_on
from cai.models.local.spec import Precision, Quantization

SKIPPED_MODULES = ["lm_head", "embed_out", "output", "score", "v_head", "value_head"]
"""Never quantised. Naming them replaces the default list, which would quantise a `score` head silently."""


def _as_written(function: Callable[..., Any] | None = None, **_: object) -> Any:
    """In the place of `torch.compile`: the function itself."""
    return function if function is not None else _as_written


@contextmanager
def _plain_import() -> Iterator[None]:
    """Importing bitsandbytes downloads kernels when the package `kernels` is installed, and has functions compiled that
    nothing here calls, for which torch's whole compiler is read, a second each time. Neither happens within this."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = object()
    hidden: Any = sys.modules.get("kernels", missing)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    level = log.level
    log.setLevel(logging.ERROR)
    compile_, torch.compile = torch.compile, _as_written  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_
        log.setLevel(level)
        if hidden is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = hidden


# Before transformers and peft, which import it themselves.
with _plain_import():
    import bitsandbytes

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

transformers_logging.disable_progress_bar()
# Each 8-bit layer says at each forward pass that it quantises its inputs through fp16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def load_network(folder: Path, quantization: Quantization, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model in eval mode with every parameter frozen, quantised while it loads; products are of this type."""
    with warnings.catch_warnings():
        # bitsandbytes quantises int8 through fp16 and says so for each layer.
        warnings.filterwarnings("ignore", message=".*MatMul8bitLt.*")
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            device_map={"": device},
            quantization_config=quantization_config(quantization, dtype),
        )
    model.requires_grad_(False)
    model.eval()
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False
    return model


def compute_dtype(device: str, precision: Precision) -> torch.dtype:
    """The type of the base's weights that are not quantised, and of all its products."""
    return torch.float32 if precision_on(device, precision) == "fp32" else torch.bfloat16


def dtype_of(model: PreTrainedModel) -> torch.dtype:
    """What a model computes in: the type of its head, which is never quantised."""
    head: Any = model.get_output_embeddings()
    return head.weight.dtype  # type: ignore[no-any-return]


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What plain transformers needs to load the base exactly as we do."""
    if quantization == "none":
        return None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED_MODULES)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=SKIPPED_MODULES,
    )


def four_bit_layers(model: PreTrainedModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def keep_dense_copies(model: PreTrainedModel) -> int:
    """Give every 4-bit layer a copy of exactly what it would unpack to, and compute with it; the bytes that takes.

    On a CPU each forward pass through a 4-bit layer unpacks it first; for short rows that costs more than the product.
    The copy is a cache in the type that is computed in: the 4-bit weights stay what is saved, hashed and frozen, and
    the results are the same bits.
    """
    held, dtype = 0, dtype_of(model)
    for layer in four_bit_layers(model):
        dense = dequantised(layer).to(dtype)
        held += dense.nbytes
        layer.forward = _DenseForward(dense, layer.bias)
    return held


@contextmanager
def layers_computed_again(model: PreTrainedModel, inside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """A forward pass within this keeps each layer's input only; the backward pass computes the rest again, within
    `inside`. That is where the adapter has to be active and its dropout on: by then both may be otherwise."""

    def run(layer: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(layer, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), inside()))

    layers: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # Its own flag only: everything inside stays in eval mode.
        layer.gradient_checkpointing = layer.training = True
        layer._gradient_checkpointing_func = run  # noqa: SLF001 (where transformers looks for it)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def dequantised(layer: Any) -> torch.Tensor:
    """The matrix that a 4-bit layer stands for, in fp32."""
    weight = layer.weight
    dense = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return dense.to(torch.float32)  # type: ignore[no-any-return]


def frozen_matrix(layer: Any) -> torch.Tensor | None:
    """What a linear layer multiplies with, where that lies there as one plain matrix."""
    if isinstance(layer.forward, _DenseForward):
        return layer.forward.dense
    return layer.weight if type(layer) is torch.nn.Linear and not layer.weight.requires_grad else None


def rotates_alike(model: PreTrainedModel) -> bool:
    """Whether positions are turned by the same angles however long a pass is. Otherwise a model's buffers change with
    each pass, so that two cannot run at once."""
    return not any(
        kind in str(getattr(module, "rope_type", "")) for module in model.modules() for kind in ("dynamic", "longrope")
    )


class _DenseForward:
    """A 4-bit layer's forward pass on the cached copy of its weight."""

    def __init__(self, dense: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.dense = dense
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.dense, self._bias)
