"""A model's reply read as one request: what stands around it is taken off, and what is none is named.

Each rule looks at form and claims little: a text passes unless something shows that it is an answer, a refusal, a list
or an echo. Whether the request is any good, and of the kind that was asked for, is not judged here.
"""

import re

from cai.feedback.clean import clean, is_trivial
from cai.feedback.filters.looking import Finding
from cai.feedback.prompt_frames import ASK, EXAMPLES, REPLY

_BULLET = re.compile(r"(?:[-*•]|\d{1,2}[.)])\s+")
_AROUND = (
    re.compile(r"[^\n:]{0,80}\b(?:here is|here's|here are)\b[^\n:]{0,80}:\s*", re.IGNORECASE),
    re.compile(r"[*#\s]*(?:new |harmless )?(?:request|prompt|question|twin|user|human)\s*:\**\s*", re.IGNORECASE),
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "`": "`"}
_ITEM = re.compile(r"^\s*" + _BULLET.pattern + r"\S", re.MULTILINE)
_REFUSAL = re.compile(
    r"(?:i(?:'m| am) (?:sorry|unable|not able)|(?:i'm )?sorry\b|i (?:can ?not|can't|won't|will not|must not|refuse|"
    r"must decline)\b|no, i\b|as an? (?:ai|assistant|language model)\b|unfortunately\b)",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"(?:sure|certainly|of course|absolutely|i can help|i(?:'d| would) be (?:glad|happy))\b", re.IGNORECASE
)
_STATEMENT = re.compile(r"(?:the|it|this|that|there|he|she|they|we)\b[^.!?\n]*[.!]?\Z", re.IGNORECASE)


def bare_request(reply: str) -> str:
    """The request without reasoning, announcement, label, bullet and quotation marks."""
    text = clean(reply, "answer").text
    while True:
        before = text
        # Of a list the first bullet stays: it is known by more than one.
        for around in (*_AROUND, _BULLET) if len(_ITEM.findall(text)) < 2 else _AROUND:
            if found := around.match(text):
                text = text[found.end() :].strip()
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
            text = text[1:-1].strip()
        if text == before:
            return text


def why_no_request(text: str, longest: int) -> Finding | None:
    """What shows that the text is not one request, if anything does."""
    if is_trivial(text):
        return Finding("empty", "it holds no letter and no digit")
    if len(_ITEM.findall(text)) > 1:
        return Finding("a list", "one request was asked for")
    if len(text) > longest:
        return Finding("too long", f"{len(text)} characters, and {longest} are the most")
    if any(piece in text.casefold() for piece in _PIECES):
        return Finding("not a request", "it repeats what it was asked")
    if "?" in text or "？" in text:
        return None
    for form, told in ((_REFUSAL, "a refusal"), (_ANSWER, "an answer"), (_STATEMENT, "a statement")):
        if form.match(text):
            return Finding("not a request", f"it reads as {told}")
    return None


def _pieces() -> tuple[str, ...]:
    """The fixed parts of our frames that are long enough to be nobody else's words."""
    parts = (part.strip(" :.,\n") for frame in (*ASK.values(), EXAMPLES, REPLY) for part in re.split(r"\{\w+\}", frame))
    return tuple(part.casefold() for part in parts if len(part.split()) >= 5)


_PIECES = _pieces()
