"""Weighing given texts at an endpoint: by log-probabilities, else by structured output, else by a strict reading.

A way that the endpoint cannot go, or whose reply does not name a text, is followed by the next; after the last the
choice has failed. No text is ever a default. `docs/decisions/remote.md` says why in this order.
"""

import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from cai.models.protocol import ChoiceRequest
from cai.models.remote.probe import Abilities, chosen_in, schema_of
from cai.models.remote.wire import Answer, plain_message

BY_LOGPROBS, BY_SCHEMA, BY_TEXT = "log-probabilities", "structured output", "parsed text"
_LARGEST_ERROR = 0.01
"""A text that is not among those told may weigh this much, as a share of those that are."""
_AROUND_TOKENS = " \t\r\n▁ĠĊ"
_AROUND_WORDS = " \t\r\n*_`\"'()[]{}.:“”‘’"
_LEAD = r"(?:(?:the\s+)?(?:final\s+|better\s+|best\s+)?(?:answer|choice|response)(?:\s+is)?\s*:?\W*)?"

Logprobs = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask, and to read what comes back; None where it names no text."""

    name: str
    fields: Mapping[str, object]
    reply_tokens: int
    read: Callable[[Answer], Logprobs | None]


async def ways(request: ChoiceRequest, abilities: Abilities, reply_tokens: int) -> AsyncIterator[Way]:
    """The ways that this endpoint can go, best first; each ability is probed only when its way comes up."""
    texts = request.continuations
    assert len(set(texts)) == len(texts) and all(texts), texts
    limit = await abilities.limit_field()
    messages = [plain_message(message) for message in request.messages]
    if _told_apart_at_once(texts) and (top := await abilities.top_logprobs()):
        # At temperature 1 and top_p 1 every server tells the same numbers, before or after it samples.
        weighed = {"messages": messages, "temperature": 1.0, "top_p": 1.0, "logprobs": True, "top_logprobs": top}
        yield Way(BY_LOGPROBS, {**weighed, limit: 1}, 1, lambda answer: read_top(answer.top, texts))
    plain = {"messages": messages, "temperature": 0.0, limit: reply_tokens}
    if await abilities.keeps_schema():
        bound = {**plain, "response_format": schema_of(texts)}
        yield Way(BY_SCHEMA, bound, reply_tokens, lambda answer: certain(chosen_in(answer.text, texts), texts))
    yield Way(BY_TEXT, plain, reply_tokens, lambda answer: certain(read_word(answer.text, texts), texts))


async def text_ways(request: ChoiceRequest, abilities: Abilities, reply_tokens: int) -> AsyncIterator[Way]:
    """The same for a plain text: by log-probabilities of what tells the continuations apart, else by what is said.

    What they share (` (` of ` (A)` and ` (B)`) goes behind the text, so that the next token tells which one it is.
    """
    texts = request.continuations
    assert len(set(texts)) == len(texts) and all(texts), texts
    shared = _shared(texts)
    rests = tuple(text.removeprefix(shared) for text in texts)
    if all(rests) and len({rest[0] for rest in rests}) == len(rests) and (top := await abilities.text_logprobs()):
        prompt = request.text + shared
        weighed = {"prompt": prompt, "temperature": 1.0, "top_p": 1.0, "logprobs": top, "max_tokens": 1}
        yield Way(BY_LOGPROBS, weighed, 1, lambda answer: read_top(_openings(answer.top, rests), rests))
    plain = {"prompt": request.text, "temperature": 0.0, "max_tokens": reply_tokens, "stop": ["\n"]}
    yield Way(BY_TEXT, plain, reply_tokens, lambda answer: certain(_opening_of(answer.text, texts), texts))


def read_top(top: Mapping[str, float] | None, texts: Sequence[str]) -> Logprobs | None:
    """Each text's log-probability among those told for the first position, or None.

    A text that is not told has at most the probability of the last one told, and at most what is left. Where that is
    next to nothing it counts as that much, and otherwise nothing is known.
    """
    if not top:
        return None
    told = {token: math.exp(value) for token, value in top.items()}
    if sum(told.values()) > 1.05:
        return None
    shares = {text: sum(p for token, p in told.items() if token.strip(_AROUND_TOKENS) == text) for text in texts}
    heard = sum(shares.values())
    rest = min(*told.values(), max(0.0, 1 - sum(told.values())))
    known = {token.strip(_AROUND_TOKENS) for token in told}
    if heard <= 0 or (not known.issuperset(texts) and rest > _LARGEST_ERROR * heard):
        return None
    return tuple(_log(shares[text] if text in known else rest) for text in texts)


def read_word(text: str, texts: Sequence[str]) -> str | None:
    """The one text that the reply is, after its reasoning and without what is written around a word."""
    if "<think>" in text and "</think>" not in text:
        return None
    said = text.rpartition("</think>")[2].strip(_AROUND_WORDS)
    by_length = sorted(texts, key=len, reverse=True)
    found = re.fullmatch(rf"(?i:{_LEAD})({'|'.join(map(re.escape, by_length))})", said)
    return found[1] if found else None


def _shared(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    alike = next((k for k, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), None)
    return texts[0][:alike] if alike is not None else min(texts, key=len)


def _openings(top: Mapping[str, float] | None, rests: Sequence[str]) -> dict[str, float] | None:
    """The told tokens, those that begin one of the texts or go beyond it (`A` and `A).` of `A)`) added up under it."""
    if top is None:
        return None
    found: dict[str, float] = {}
    for token, value in top.items():
        said = token.strip(_AROUND_TOKENS)
        name = next((rest for rest in rests if said and (rest.startswith(said) or said.startswith(rest))), token)
        found[name] = _log(math.exp(found.get(name, -math.inf)) + math.exp(value))
    return found


def _opening_of(text: str, texts: Sequence[str]) -> str | None:
    """The one text with which the reply begins, with or without what stands around its word."""
    said = text.strip()
    bare = {each: each.strip(_AROUND_WORDS) for each in texts}
    found = [each for each in texts if said.startswith(each.strip()) or said.strip(_AROUND_WORDS) == bare[each]]
    return found[0] if len(found) == 1 else None


def certain(word: str | None, texts: Sequence[str]) -> Logprobs | None:
    """All probability on the word that was said."""
    return None if word is None else tuple(0.0 if text == word else -math.inf for text in texts)


def _told_apart_at_once(texts: Sequence[str]) -> bool:
    """Whether the first token can tell them apart: it cannot tell 1 from 10."""
    return not any(a != b and b.startswith(a) for a in texts for b in texts)


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf
