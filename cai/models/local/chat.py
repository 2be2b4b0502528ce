"""Conversations as tokens: the model's own template or a named form, and where the completion starts.

The rules (docs/decisions/token-boundaries.md): the prompt's ids are the template's with the generation prompt; the
completion's ids are those of the whole conversation minus the prompt's, up to the end of the turn; a row whose prompt
is no strict prefix is refused. What a message says never becomes a special token. Rendering lives in `templates`.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from cai.errors import InputError
from cai.models.local.logprobs import TokenRow
from cai.models.local.templates import NAMED_FORMS, compiled
from cai.models.protocol import TOO_LONG, RowError
from cai.records import Message, digest

_PROBE = "qzx"
_MARKS = tuple(mark_control_tokens("x", re.compile("x")).split("x"))
"""What stands before and behind a control token that a message says."""
_KEPT_OPENINGS = 4096
_OTHER_FORM = "set `template` to one of " + ", ".join(NAMED_FORMS)
_TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class ChatFormat:
    """A tokenizer with the one template it is used with."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, name: str, form: str | None, clock: str, context: int | None
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._name = name
        self._context = context
        # transformers would warn of what is refused here.
        self._tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        source, markers = self._source(form)
        self.facts: dict[str, object] = {
            "template": form or "the model's own",
            "template_sha256": hashlib.sha256(source.encode()).hexdigest(),
            "template_date": clock,
        }
        self.fingerprint = digest([source, clock])
        self._render = self._compiled(source, clock)
        self._variables = {key: str(value) for key, value in self._tokenizer.special_tokens_map.items()}
        added = dict(self._tokenizer.added_tokens_decoder)
        self._special_ids = {i for i, token in added.items() if token.special}
        control = [token.content for token in added.values() if token.special or token.content in source]
        self._tokens = _any_of(control)
        self._special = _any_of([token.content for token in added.values() if token.special])
        self._openings = lru_cache(_KEPT_OPENINGS)(self._opening)
        self._markers = _any_of([marker for marker in markers if marker not in control])
        self._folds_system = self._must_fold_system()
        self.end_of_turn = self._end_of_turn()
        self._lead = self._lead_of_answers()
        self._begin = self._beginning_of_texts()

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> tuple[int, ...]:
        """The ids that the model continues."""
        ids = self._ids(self._text(messages, tools, open_turn=True))
        self._check_length(len(ids) + 1, f"{len(ids)} tokens and an answer")
        return ids

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The same as text."""
        return self._text(messages, (), open_turn=True)

    @property
    def end_of_text(self) -> int | None:
        """The token that the tokenizer itself calls an end."""
        end = self._tokenizer.eos_token_id
        return None if end is None else int(end)

    @property
    def vocabulary(self) -> int:
        return len(self._tokenizer)

    @property
    def end_of_turn_text(self) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(self.end_of_turn))

    def encode(self, messages: Sequence[Message], completion: str, tools: Sequence[dict[str, object]] = ()) -> TokenRow:
        """The conversation and the answer to it, cut where the answer starts; the end of the turn is part of it."""
        prompt_ids = self._ids(self._text(messages, tools, open_turn=True))
        full_ids = self._ids(self._text([*messages, Message("assistant", completion)], tools, open_turn=False))
        completion_ids = _after(prompt_ids, full_ids)
        if self.end_of_turn not in completion_ids:
            raise RowError("turn does not end", "the template writes no end of turn after this answer")
        end = completion_ids.index(self.end_of_turn) + 1
        self._check_length(len(prompt_ids) + end, f"{len(prompt_ids)} tokens and {end} of the answer")
        return TokenRow(prompt_ids, completion_ids[:end])

    def encode_choices(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """The prompt's ids, and those of each text that might open the answer, as they are in an answer."""
        text = self._text(messages, (), open_turn=True)
        prompt_ids = self._ids(text)
        tail = self._tail(text, prompt_ids)
        options = [self._openings(tail, continuation) for continuation in continuations]
        self._check_length(len(prompt_ids) + max(map(len, options)), f"{len(prompt_ids)} tokens and a choice")
        return prompt_ids, options

    def _opening(self, tail: str, continuation: str) -> tuple[int, ...]:
        """The ids of a text that opens the answer behind a prompt's tail."""
        opened = tail + self._lead + mark_control_tokens(continuation, self._tokens)
        return _after(self._ids(tail), self._ids(opened))

    def _tail(self, text: str, ids: tuple[int, ...]) -> str:
        """What decides how a text behind a prompt is read: from the last special token on, where tokenizers cut first
        of all. Of most templates it is the same for every prompt, so what follows it need not be read again."""
        starts = [found.start() for found in self._special.finditer(text)]
        if not starts or text[: starts[-1]].endswith(_MARKS[0]):
            return text
        tail = text[starts[-1] :]
        tail_ids = self._ids(tail)
        return tail if ids[-len(tail_ids) :] == tail_ids else text

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The ids of a plain text that the model goes on with: what the tokenizer begins every text with, and no
        template. Nothing in the text becomes a special token."""
        ids = self._text_ids(text)
        self._check_length(len(ids) + 1, f"{len(ids)} tokens and an answer")
        return ids

    def encode_text_choices(
        self, text: str, continuations: Sequence[str]
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """A plain text's ids, and those of each continuation as it stands behind it."""
        prompt_ids = self._text_ids(text)
        options = [_after(prompt_ids, self._text_ids(text + continuation)) for continuation in continuations]
        self._check_length(len(prompt_ids) + max(map(len, options)), f"{len(prompt_ids)} tokens and a choice")
        return prompt_ids, options

    def text(self, ids: Sequence[int]) -> str:
        """The text of drawn ids, without special tokens."""
        return self._tokenizer.decode(  # type: ignore[no-any-return]
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def room_after(self, prompt_ids: Sequence[int], wanted: int) -> int:
        """How many tokens may follow a prompt: those wanted, or what is left of the model's context."""
        return wanted if self._context is None else min(wanted, self._context - len(prompt_ids))

    def _source(self, form: str | None) -> tuple[str, tuple[str, ...]]:
        names = ", ".join(NAMED_FORMS)
        if form is None:
            own = self._tokenizer.chat_template
            source = own.get("default") if isinstance(own, dict) else own
            if not source:
                raise InputError(
                    self._name, "the model has no chat template", None, f"set `template` to one of {names}"
                )
            return source, ()
        if form not in NAMED_FORMS:
            raise InputError("template", "there is no chat form of this name", form, f"choose among {names}")
        named = NAMED_FORMS[form]
        missing = [token for token in named.needs if token not in self._tokenizer.get_vocab()]
        if missing or not self._tokenizer.eos_token:
            lacks = missing[0] if missing else "an end-of-sequence token"
            raise InputError(
                self._name,
                f"the chat form {form} does not fit: the tokenizer lacks {lacks}",
                None,
                "choose another form",
            )
        return named.source, named.markers

    def _compiled(self, source: str, clock: str) -> Callable[..., str]:
        try:
            return compiled(source, clock)
        except TemplateError as error:
            raise InputError(self._name, f"its chat template is broken: {error}", None, _OTHER_FORM) from error
        except ValueError as error:
            raise InputError("clock", f"is no date: {error}", clock, "write it as 2026-01-31") from error

    def _text(self, messages: Sequence[Message], tools: Sequence[dict[str, object]], open_turn: bool) -> str:
        if not messages:
            raise RowError("no messages", "a conversation needs at least one message")
        folded = _with_system_folded(messages) if self._folds_system else messages
        plain = [self._plain(message) for message in folded]
        try:
            return self._render(
                **self._variables,
                messages=mark_control_tokens(plain, self._tokens),
                tools=mark_control_tokens(list(tools), self._tokens) or None,
                documents=None,
                add_generation_prompt=open_turn,
                # Reasoning stays out of answers, verdicts and loss; a template without the switch ignores it.
                enable_thinking=False,
            )
        except _TEMPLATE_ERRORS as error:
            raise RowError("template refused", f"{type(error).__name__}: {error}") from error

    def _plain(self, message: Message) -> dict[str, object]:
        """A message as templates know it; markers of a named form get a space after their first character."""
        content = self._markers.sub(lambda found: f"{found[0][0]} {found[0][1:]}", message.content)
        plain: dict[str, object] = {"role": message.role, "content": content}
        if message.tool_calls:
            plain["tool_calls"] = list(message.tool_calls)
        if message.tool_call_id is not None:
            plain["tool_call_id"] = message.tool_call_id
        return plain

    def _ids(self, text: str) -> tuple[int, ...]:
        if not any(mark in text for mark in _MARKS):
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))
        try:
            return tuple(encode_marked_chat(self._tokenizer, text))
        except ValueError as error:
            raise RowError("special token in content", str(error)) from error

    def _text_ids(self, text: str) -> tuple[int, ...]:
        return self._begin + self._ids(mark_control_tokens(text, self._tokens))

    def _check_length(self, length: int, told: str) -> None:
        if self._context is not None and length > self._context:
            raise RowError(TOO_LONG, f"{told} do not fit the model's context of {self._context}")

    def _must_fold_system(self) -> bool:
        """Whether the template refuses system messages or drops them; then they open the first user turn instead."""
        self._folds_system = False
        try:
            return _PROBE not in self._text([Message("system", _PROBE), Message("user", "x")], (), open_turn=True)
        except RowError:
            return True

    def _end_of_turn(self) -> int:
        """The special token that the template writes after an answer, found by rendering one."""
        question = [Message("user", "x")]
        try:
            prompt_ids = self._ids(self._text(question, (), open_turn=True))
            full_ids = self._ids(self._text([*question, Message("assistant", _PROBE)], (), open_turn=False))
            answer = _after(prompt_ids, full_ids)
        except RowError as error:
            raise InputError(
                self._name, f"its chat template cannot be used: {error.detail}", None, _OTHER_FORM
            ) from error
        said = next((k for k in range(1, len(answer) + 1) if _PROBE in self.text(answer[:k])), len(answer))
        for token in answer[said:]:
            if token in self._special_ids:
                return token
        raise InputError(
            self._name,
            "its chat template ends no answer with a special token, so no reply would end",
            None,
            _OTHER_FORM,
        )

    def _lead_of_answers(self) -> str:
        """What stands between the generation prompt and an answer's first word: a space in the Llama-2 form."""
        question = [Message("user", "x")]
        prompt = self._text(question, (), open_turn=True)
        full = self._text([*question, Message("assistant", _PROBE)], (), open_turn=False)
        return full.removeprefix(prompt).partition(_PROBE)[0] if full.startswith(prompt) else ""

    def _beginning_of_texts(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before every text: a beginning-of-sequence token, or nothing."""
        bare = self._tokenizer.encode(_PROBE, add_special_tokens=False)
        whole = self._tokenizer.encode(_PROBE, add_special_tokens=True)
        at = next((k for k in range(len(whole)) if whole[k : k + len(bare)] == bare), 0)
        return tuple(whole[:at])


def _after(prompt_ids: tuple[int, ...], full_ids: tuple[int, ...]) -> tuple[int, ...]:
    if full_ids[: len(prompt_ids)] == prompt_ids and len(full_ids) > len(prompt_ids):
        return full_ids[len(prompt_ids) :]
    pairs = zip(prompt_ids, full_ids, strict=False)
    same = next((k for k, (ours, theirs) in enumerate(pairs) if ours != theirs), len(full_ids))
    raise RowError(
        "prompt is not a prefix",
        f"with the answer the template or tokenizer writes another prompt, from token {same} of {len(prompt_ids)} on",
    )


def _with_system_folded(messages: Sequence[Message]) -> list[Message]:
    """System texts, then a blank line, before the first user message."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first = next((k for k, message in enumerate(rest) if message.role == "user"), None)
    if not system or first is None:
        return rest
    rest[first] = Message("user", "\n\n".join([*system, rest[first].content]))
    return rest


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(set(texts), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
