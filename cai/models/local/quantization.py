"""One model in one precision, measured: its size, its speed in a forward pass, how well it predicts a text, what it
chooses. How the precisions compare is `evaluate.quantization`'s.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cai.errors import InputError
from cai.models.local.finding import find_model
from cai.models.local.logprobs import TokenRow, completion_logps
from cai.models.local.network import Network
from cai.models.local.spec import ModelSpec
from cai.models.local.upstream import load_tokenizer
from cai.models.local.workbench import open_workbench
from cai.models.protocol import ChoiceRequest
from cai.records import Message

WINDOW = 512
"""A long text is read in pieces of this many tokens, each on its own."""
_TOGETHER = 8
_PASSES = 3

Passage = tuple[tuple[Message, ...], str]
"""A conversation, and the answer of which the tokens are predicted."""


@dataclass(frozen=True, slots=True)
class Measured:
    quantization: str
    bytes: int
    """Of the weights, as they lie on the device."""
    copies: int
    """Bytes of the fp32 copies that a CPU keeps of 4-bit weights."""
    tokens_per_second: float
    perplexity: float
    probabilities: tuple[tuple[float, ...], ...]
    """For each question, each option's share."""


def measure(spec: ModelSpec, text: str, passages: Sequence[Passage], questions: Sequence[ChoiceRequest]) -> Measured:
    """Load the model as `spec` says, measure it, and let it go. The text is used where there is one, else passages."""
    bench = open_workbench(spec)
    rows = _windows(spec, text) if text else [bench.encode(*passage) for passage in passages]
    if not rows:
        raise InputError("the text", "is too short to measure anything on", None, "give one of a few thousand words")
    groups = [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]
    with torch.inference_mode():
        nll, scored = _read(bench.network, groups)
        rate = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows) / _seconds(bench.network, groups)
    choices = bench.view().choose(questions) if questions else []
    found = Measured(
        spec.quantization,
        weights_on_device(bench.network),
        bench.dense_bytes,
        rate,
        math.exp(nll / scored),
        tuple(choice.probabilities for choice in choices),
    )
    on_gpu = bench.network.device.type == "cuda"
    del bench
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def weights_on_device(network: Network) -> int:
    """The bytes of all weights, with the scales of those that are quantised."""
    seen: dict[int, int] = {}
    for tensor in _tensors(network):
        seen[tensor.data_ptr()] = tensor.nbytes
    return sum(seen.values())


def _tensors(network: Network) -> Iterator[torch.Tensor]:
    for parameter in network.model.parameters():
        weight: Any = parameter
        yield weight.data
        state = getattr(weight, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    for module in network.model.modules():
        # bitsandbytes moves an 8-bit layer's scales here at its first forward pass.
        scales = getattr(getattr(module, "state", None), "SCB", None)
        if scales is not None:
            yield scales


def _windows(spec: ModelSpec, text: str) -> list[TokenRow]:
    tokenizer: Any = load_tokenizer(find_model(spec.base, spec.revision).folder)
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    pieces = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    return [TokenRow(piece[:1], piece[1:]) for piece in pieces if len(piece) > 1]


def _read(network: Network, groups: Sequence[Sequence[TokenRow]]) -> tuple[float, int]:
    """The negative log-likelihood of all completion tokens, and their number."""
    total, scored = 0.0, 0
    for group in groups:
        logps = completion_logps(network, group)
        total -= float(logps.sums().double().sum())
        scored += int(logps.lengths().sum())
    return total, scored


def _seconds(network: Network, groups: Sequence[Sequence[TokenRow]]) -> float:
    """The shortest of a few passes over everything: what else the machine does only adds to it."""
    taken = []
    for _ in range(_PASSES):
        started = time.perf_counter()
        _read(network, groups)
        taken.append(time.perf_counter() - started)
    return min(taken)
