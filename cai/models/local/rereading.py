"""An export read again by transformers and peft alone, and compared with what the tuned model says.

What is compared: the answers word for word, both generated greedily; and, along the tuned model's answers, which token
each model likes best and how far their logits are apart. Nothing here uses this project's own way of loading.

Shapes: T positions of an answer, V vocabulary.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.models.local.logprobs import TokenRow
from cai.models.local.spec import Quantization
from cai.models.local.upstream import four_bit_layers, quantization_config
from cai.models.local.workbench import Workbench
from cai.models.protocol import Request, Sampling
from cai.records import Message

MAX_NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered, and the logits along the answer that is compared."""

    messages: tuple[Message, ...]
    row: TokenRow
    prompt_ids: tuple[int, ...]
    """What its own chat template makes of the messages."""
    answer: str
    logits_TV: torch.Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far another model says what the tuned one says."""

    answers: int
    same_prompts: int
    same_answers: int
    tokens: int
    same_choices: float
    """The share of the answers' tokens at which both like the same token best."""
    largest_logit_difference: float
    largest_logit: float
    mean_kl: float
    """Of the other's next token from the tuned model's, in nats."""

    @property
    def relative_difference(self) -> float:
        return self.largest_logit_difference / max(1.0, self.largest_logit)


@dataclass(frozen=True, slots=True)
class Source:
    """What to read again. Without an adapter the folder is a whole model."""

    folder: Path
    adapter: Path | None
    quantization: Quantization
    dtype: torch.dtype
    """What it is computed in."""
    tokenizer: Path


def say(workbench: Workbench, adapter: Path, conversations: Sequence[tuple[Message, ...]]) -> list[Said]:
    """What the tuned model answers, greedily, on the workbench."""
    sampling = Sampling(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS)
    replies = workbench.view(adapter).generate([Request(messages, sampling) for messages in conversations])
    said = []
    for messages, reply in zip(conversations, replies, strict=True):
        row = TokenRow(workbench.encode_prompt(messages), reply.token_ids)
        said.append(Said(messages, row, row.prompt_ids, reply.text, workbench.answer_logits(adapter, row)))
    return said


def read_again(source: Source, device: str, stop_ids: Sequence[int] | None, asked: Sequence[Said]) -> list[Said]:
    """What the export answers and how it weighs the same answers, through transformers and peft."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(source.folder),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=source.dtype,
        device_map={"": device},
        quantization_config=quantization_config(source.quantization, source.dtype),
    )
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False
    if source.adapter is not None:
        # Not above: it imports bitsandbytes, which `upstream` has to do first.
        from peft import PeftModel

        with warnings.catch_warnings():
            # peft asks transformers for what it has renamed.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            model = PeftModel.from_pretrained(model, str(source.adapter))
    model.eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(source.tokenizer), local_files_only=True)
    ends = {} if stop_ids is None else {"eos_token_id": list(stop_ids)}
    return [_heard(model, tokenizer, ends, each) for each in asked]


def agreement(tuned: Sequence[Said], other: Sequence[Said]) -> Agreement:
    assert tuned and [each.row for each in tuned] == [each.row for each in other], "other prompts or answers"
    ours = torch.cat([each.logits_TV for each in tuned])
    theirs = torch.cat([each.logits_TV for each in other])
    kl_TV = torch.nn.functional.kl_div(theirs.log_softmax(-1), ours.log_softmax(-1), log_target=True, reduction="none")
    return Agreement(
        answers=len(tuned),
        same_prompts=sum(a.prompt_ids == b.prompt_ids for a, b in zip(tuned, other, strict=True)),
        same_answers=sum(a.answer == b.answer for a, b in zip(tuned, other, strict=True)),
        tokens=len(ours),
        same_choices=(ours.argmax(-1) == theirs.argmax(-1)).double().mean().item(),
        largest_logit_difference=(ours - theirs).abs().max().item(),
        largest_logit=ours.abs().max().item(),
        # Rounding makes a divergence of nothing a little less than nothing.
        mean_kl=max(0.0, kl_TV.sum(-1).mean().item()),
    )


def _heard(model: Any, tokenizer: Any, ends: dict[str, list[int]], said: Said) -> Said:
    device, row = model.device, said.row
    prompt_ids = torch.tensor([row.prompt_ids], device=device)
    with torch.inference_mode():
        whole = torch.tensor([[*row.prompt_ids, *row.completion_ids[:-1]]], device=device)
        logits_TV = model(input_ids=whole, use_cache=False).logits[0, len(row.prompt_ids) - 1 :].float().cpu()
        generated = model.generate(
            input_ids=prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            do_sample=False,
            # What the base's files say of sampling is not asked for, and would be warned about.
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=len(row.completion_ids),
            pad_token_id=0,
            **ends,
        )
    answer = tokenizer.decode(
        generated[0, len(row.prompt_ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Said(said.messages, row, _templated(tokenizer, said.messages), answer, logits_TV)


def _templated(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """The prompt as anybody would write it; empty where the export brings no template that does."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    try:
        ids = tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=False
        )
    except (TemplateError, ValueError):
        return ()
    return tuple(ids)
