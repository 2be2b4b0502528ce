"""Parts of the GPU bench that ask the model: what is resident, generation, judging, and both in turns under a limit."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_model import (
    GIB,
    Asked,
    Found,
    Ids,
    at_work,
    copy_bandwidth,
    inside,
    let_go,
    limit,
    open_model,
    peak,
    shape,
    texts,
    watch,
    write_adapter,
)
from measure import median_seconds

from cai.models.local.choices import choice_logps
from cai.models.local.decode import DecodeRow, Memory, decode
from cai.models.local.prefix import common_length
from cai.models.local.upstream import compute_dtype, quantization_config
from cai.models.local.view import LocalModel
from cai.models.local.width import AtOnce
from cai.models.local.workbench import Workbench
from cai.models.protocol import Sampling

RESIDENT = 7.5
LIMIT = 22.0
NF4_GOAL, BOUND_GOAL = 1.5, 0.6
VERDICT_TOKENS = 16
LABELS = ((301,), (302,))


def resident(asked: Asked, found: Found) -> None:
    """The 4-bit base with one LoRA adapter, and nothing else."""
    watch(asked)
    bench = open_model(asked)
    trainee = bench.trainee(None, seed=1)
    let_go()
    held = torch.cuda.memory_allocated() / GIB if asked.device != "cpu" else peak(asked)
    found.smaller("resident", held, RESIDENT)
    found.facts["trained parameters"] = sum(p.numel() for p in trainee.parameters().values())
    found.facts["at once"] = str(bench.limits.at_once)


def generate(asked: Asked, found: Found) -> None:
    """Greedy answers by the 4-bit base with an adapter, and by the adapter's dense copy, against `generate` on the same
    4-bit base with PEFT's layers, and against reading the copy's weights once a step."""
    bandwidth = copy_bandwidth(asked)
    let_go()
    bench = open_model(asked)
    adapter = write_adapter(asked, bench)
    view = bench.view(adapter)
    _four_bits(asked, found, bench, view, adapter)
    let_go()
    _dense_copy(asked, found, bench, view, bandwidth)


def _four_bits(asked: Asked, found: Found, bench: Workbench, view: LocalModel, adapter: Path) -> None:
    peer = plain_model(asked, str(adapter))
    inside(bench).replicas.allow(0)
    new = asked.of.new
    for rows in asked.of.widths:
        prompts = texts(asked, rows, asked.of.prompt, seed=rows)
        both = {
            "ours": lambda p=prompts: answers(bench, view, p, new),
            "peer": lambda p=prompts: generated(peer, p, new),
        }
        same = agreement(both["ours"](), both["peer"]())
        taken = median_seconds(both, asked.of.repeats)
        name, tokens = f"NF4 tokens/s at {rows} against generate", rows * new
        found.faster(name, tokens / taken["ours"], tokens / taken["peer"], NF4_GOAL)
        recorded = inside(bench).steps.on
        found.facts[f"NF4 at {rows}"] = {"seconds": taken, "same tokens": same, "steps recorded": recorded}


def _dense_copy(asked: Asked, found: Found, bench: Workbench, view: LocalModel, bandwidth: float) -> None:
    sizes = shape(asked)
    dense = bench.network.dtype.itemsize * (sizes.linear + sizes.vocabulary * sizes.width)
    found.facts |= {"copy GB/s": round(bandwidth / 1e9, 1), "bytes of a step": dense}
    inside(bench).replicas.allow(1 << 60)
    for rows in asked.of.widths:
        seconds = dense_seconds(asked, bench, view, rows)
        bound = rows * bandwidth / dense
        name = f"replica tokens/s at {rows} against reading its weights once a step"
        found.faster(name, rows * asked.of.new / seconds, bound, BOUND_GOAL, bound)
        found.facts[f"replica at {rows}"] = {"seconds": seconds, "steps recorded": inside(bench).steps.on}


def dense_seconds(asked: Asked, bench: Workbench, view: LocalModel, rows: int) -> float:
    """What answers take through the adapter's dense copy."""
    prompts = texts(asked, rows, asked.of.prompt, seed=rows)
    answers(bench, view, prompts, asked.of.new)
    if not len(inside(bench).replicas):
        raise SystemExit("there is no memory for a dense copy beside the base")
    return median_seconds({"ours": lambda: answers(bench, view, prompts, asked.of.new)}, asked.of.repeats)["ours"]


def judge(asked: Asked, found: Found) -> None:
    """Pairs by four principles in both orders, through forward passes; the peer generates each verdict."""
    bench = open_model(asked)
    adapter = write_adapter(asked, bench)
    peer = plain_model(asked, str(adapter))
    view, verdicts = bench.view(adapter), judgements(asked)
    sample = verdicts[: max(2, len(verdicts) // 8)]

    def ours() -> None:
        with at_work(view):
            choice_logps(bench.network, [(verdict, LABELS) for verdict in verdicts])

    ours()
    taken = median_seconds({"ours": ours, "peer": lambda: generated(peer, sample, VERDICT_TOKENS)}, asked.of.repeats)
    theirs = asked.of.pairs * len(sample) / len(verdicts) / taken["peer"]
    found.faster("judged pairs/s against generated verdicts", asked.of.pairs / taken["ours"], theirs, 1.0)
    found.facts |= {"seconds": taken, "verdicts": len(verdicts), "sample": len(sample)}


def turns(asked: Asked, found: Found) -> None:
    """Answer, critique and revision, and then the judging of both, in one process that may have 22 GiB."""
    limit(asked, LIMIT)
    watch(asked)
    bench = open_model(asked)
    inside(bench).replicas.allow(0)
    view = bench.view(write_adapter(asked, bench))
    read, made = revise_and_judge(asked, bench, view)
    found.smaller("revise and judge: reserved", peak(asked, reserved=True), LIMIT)
    found.facts |= {"tokens generated": made, "texts judged": read, "peak allocated GiB": peak(asked)}
    found.facts["steps recorded"] = inside(bench).steps.on


def revise_and_judge(asked: Asked, bench: Workbench, view: LocalModel) -> tuple[int, int]:
    """How many texts were judged, and how many tokens generated."""
    size = asked.of
    prompt, new = size.turn
    conversations, made = texts(asked, size.rows, prompt, seed=5), 0
    said: list[list[Ids]] = []
    memory = Memory(inside(bench).kept, "bench")
    for ask in texts(asked, 3, 8, seed=6):
        told = answers(bench, view, conversations, new, memory)
        conversations = [(*c, *t, *ask) for c, t in zip(conversations, told, strict=True)]
        said.append(told)
        made += sum(map(len, told))
    first, _, last = said
    texts_read = [
        (*question, *one, *other)
        for question, pair in zip(texts(asked, size.rows, prompt, seed=5), zip(first, last, strict=True), strict=True)
        for one, other in (pair, pair[::-1])
    ]
    with at_work(view):
        choice_logps(bench.network, [(text, LABELS) for text in texts_read])
    return len(texts_read), made


def vllm(asked: Asked, found: Found) -> None:
    """Where vLLM is installed: the same prompts through it, on the 16-bit weights, beside our dense copy."""
    if find_spec("vllm") is None:
        found.facts["skipped"] = "vllm is not installed"
        return
    from vllm import LLM, SamplingParams

    size, rows = asked.of, asked.of.widths[-1]
    ours = _ours_alone(asked, rows)
    let_go()
    prompts = texts(asked, rows, size.prompt, seed=rows)
    engine = LLM(model=str(asked.folder), dtype="bfloat16", gpu_memory_utilization=0.6, max_model_len=2048)
    sampling = SamplingParams(temperature=0.0, max_tokens=size.new, ignore_eos=True)
    given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    engine.generate(given, sampling, use_tqdm=False)
    theirs = median_seconds({"vllm": lambda: engine.generate(given, sampling, use_tqdm=False)}, size.repeats)["vllm"]
    found.faster(f"replica tokens/s at {rows} against vLLM", rows * size.new / ours, rows * size.new / theirs, None)


def _ours_alone(asked: Asked, rows: int) -> float:
    bench = open_model(asked)
    inside(bench).replicas.allow(1 << 60)
    return dense_seconds(asked, bench, bench.view(write_adapter(asked, bench)), rows)


def answers(
    bench: Workbench, view: LocalModel, prompts: Sequence[Ids], new: int, memory: Memory | None = None
) -> list[Ids]:
    """Greedy, all rows at once, none of which ends before its time."""
    rows = [DecodeRow(prompt, Sampling(temperature=0, max_new_tokens=new), 0) for prompt in prompts]
    together = AtOnce(len(prompts), bench.limits.at_once.tokens)
    with at_work(view):
        done = decode(bench.network, rows, lambda *_: False, memory, together, inside(bench).steps)
    return [row.ids for row in done]


def plain_model(asked: Asked, adapter: str | None) -> Any:
    """The same 4-bit base through transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = compute_dtype(asked.device, "auto")
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(asked.folder),
        dtype=dtype,
        device_map={"": asked.device},
        quantization_config=quantization_config("nf4", dtype),
    )
    for module in model.modules():
        # On some CPUs bitsandbytes would repack the weights for a kernel without gradients.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if adapter is not None:
        with warnings.catch_warnings():
            # peft asks transformers for what it has renamed.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def generated(model: Any, prompts: Sequence[Ids], new: int) -> list[Ids]:
    """transformers' `generate`, greedy, all prompts at once, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (longest - len(p)), *p] for p in prompts], device=model.device)
    mask = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new, eos_token_id=None, pad_token_id=0
        )
    return [tuple(row) for row in out[:, longest:].tolist()]


def agreement(ours: Sequence[Ids], theirs: Sequence[Ids]) -> float:
    """The share of tokens up to which both say the same: in 16 bits two that are almost as likely change places."""
    alike = sum(common_length(both) for both in zip(ours, theirs, strict=True))
    return round(alike / sum(map(len, ours)), 3)


def judgements(asked: Asked) -> list[Ids]:
    """For each pair every principle in both orders: request, principle, answers, question."""
    prompt, new = asked.of.prompt, asked.of.new
    requests, principles = texts(asked, asked.of.pairs, prompt, seed=8), texts(asked, 4, 30, seed=10)
    firsts, seconds = texts(asked, asked.of.pairs, new, seed=9), texts(asked, asked.of.pairs, new, seed=11)
    question = texts(asked, 1, 4, seed=12)[0]
    return [
        (*request, *principle, *pair[0], *pair[1], *question)
        for request, one, other in zip(requests, firsts, seconds, strict=True)
        for principle, pair in product(principles, ((one, other), (other, one)))
    ]
