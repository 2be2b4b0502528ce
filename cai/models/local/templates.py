"""Chat templates: the named forms, and a renderer that a template cannot run away with.

A template comes from whoever made the model. transformers renders it in an immutable sandbox; here its clock stands
still, every loop is counted and timed, and no text can be multiplied into gigabytes. What a conversation becomes in
tokens is `chat`'s business.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError, nodes
from transformers.utils import chat_template_utils

SECONDS = 2.0
MAX_LOOPS = 100_000
MAX_TEXT = 10_000_000

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_LLAMA_2 = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{ bos_token }}{{ '[INST] ' + ns.system + message.content + ' [/INST]' }}{%- set ns.system = '' -%}
{%- else -%}{{ ' ' + message.content + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}
"""
_MISTRAL = """\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- set ns.system = message.content + '\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{ '[INST] ' + ns.system + message.content + ' [/INST]' }}{%- set ns.system = '' -%}
{%- else -%}{{ ' ' + message.content + eos_token }}{%- endif -%}
{%- endfor -%}
"""
_ALPACA = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\\n\\n' }}
{%- else -%}{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the \
request.\\n\\n' }}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ '### Instruction:\\n' + message.content + '\\n\\n### Response:\\n' }}
{%- elif message.role == 'assistant' -%}{{ message.content + eos_token }}
{%- if not loop.last -%}{{ '\\n\\n' }}{%- endif -%}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, slots=True)
class NamedForm:
    """A published chat form for models without a template of their own."""

    source: str
    needs: tuple[str, ...]
    """Special tokens that the tokenizer must have for a turn to end."""
    markers: tuple[str, ...]
    """Plain text that opens or closes a turn: never allowed to come out of a message."""


NAMED_FORMS: dict[str, NamedForm] = {
    "chatml": NamedForm(_CHATML, ("<|im_end|>",), ("<|im_start|>", "<|im_end|>")),
    "llama-2": NamedForm(_LLAMA_2, (), ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")),
    "mistral": NamedForm(_MISTRAL, (), ("[INST]", "[/INST]")),
    "alpaca": NamedForm(_ALPACA, (), ("### Instruction:", "### Response:")),
}


class _Budget:
    """What one rendering may still spend; templates call it from their loops."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + SECONDS
        self.loops = MAX_LOOPS

    def counted(self, items: Iterable[object]) -> Iterator[object]:
        for item in items:
            self.loops -= 1
            if self.loops < 0 or time.monotonic() > self.deadline:
                raise TemplateError(f"the template loops more than {MAX_LOOPS} times or {SECONDS:g} seconds")
            yield item


def compiled(source: str, clock: str) -> Callable[..., str]:
    """A function from template variables to text. It raises `jinja2.TemplateError`, `TypeError` and the like when the
    template refuses what it is given; `clock` is the date that it sees as today's."""
    today = dt.datetime.fromisoformat(clock)
    upstream: Any = chat_template_utils
    # Its hardened sandbox, taken from an empty template: compiling this one there would already work out constants.
    environment = upstream._compile_jinja_template("").environment.overlay()  # noqa: SLF001
    environment.intercepted_binops = frozenset({"*", "**", "%"})
    environment.binop_table = {**environment.binop_table, "*": _times, "**": _power, "%": _modulo}
    tree = environment.parse(source)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Call(nodes.Name("__counted__", "load"), [loop.iter], [], None, None)
    template = environment.from_string(tree)

    def render(**variables: object) -> str:
        text: str = template.render(**variables, strftime_now=today.strftime, __counted__=_Budget().counted)
        return text

    return render


def _times(left: Any, right: Any) -> Any:
    for text, count in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(count, int) and len(text) * count > MAX_TEXT:
            raise TemplateError(f"the template multiplies a text beyond {MAX_TEXT} characters")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if abs(right) > 100:
        raise TemplateError("the template raises a number to a power above 100")
    return left**right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise TemplateError("the template formats a text with %")
    return left % right
