"""Taking off what a model puts around an answer: reasoning, role prefixes, other turns, leaked frames, preambles.

Each rule is a pattern of form, not a list of phrases, and says by name what it took, so that a run can count it. Where
nothing of the model's own part is left, the reason is told instead. Whether an answer is any good is not judged here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cai.constitution.frames import CRITIQUE, JUDGE, REVISION, SCORE
from cai.records import Message

Step = Literal["answer", "critique", "revision"]


@dataclass(frozen=True, slots=True)
class Cleaned:
    text: str
    removed: tuple[str, ...] = ()
    """What was taken off, in the order it was: "reasoning", "role prefix", "echoed turn", "turn markup", "leaked
    frame", "another turn" or "preamble"."""
    refused: str = ""
    """Why nothing is left, where the text was whole and yet not the model's to say."""


def clean(text: str, step: Step, asked: str = "") -> Cleaned:
    """The text alone; `asked` is the message that it replies to. Cleaning twice changes nothing more."""
    removed: list[str] = []
    text = text.strip()
    while True:
        for name, cleaned in _attempts(text, step, asked):
            if cleaned != text:
                text = cleaned
                removed.append(name)
                break
        else:
            if _USER.match(text) and not _ASSISTANT_LINE.search(text):
                return Cleaned("", (*removed, "the user's turn"), "speaks as the user")
            return Cleaned(text, tuple(removed))


def last_asked(messages: Sequence[Message]) -> str:
    """What a reply that echoes its question begins with."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def without_reasoning(text: str) -> str:
    """The text without its `<think>` blocks, or those of a like name; one that never closes takes the rest with it.

    A closing tag alone counts as well: some templates write the opening one into the prompt.
    """
    text = _REASONING.sub("", text)
    closed = [match.end() for match in _REASONED.finditer(text)]
    return text[closed[-1] :].strip() if closed else text.strip()


def folded(text: str) -> str:
    """The text as it is compared with another: runs of white space count as one space."""
    return " ".join(text.split())


def is_trivial(text: str) -> bool:
    """Whether the text says nothing: it holds no letter and no digit."""
    return not any(character.isalnum() for character in text)


_THOUGHT = "think|thinking|thought|reasoning|scratchpad"
_REASONING = re.compile(rf"<({_THOUGHT})>.*?(?:</\1>|\Z)", re.DOTALL)
_REASONED = re.compile(rf"</(?:{_THOUGHT})>")


def _attempts(text: str, step: Step, asked: str) -> Sequence[tuple[str, str]]:
    attempts = [
        ("reasoning", without_reasoning(text)),
        ("role prefix", _without_prefix(text, step)),
        ("echoed turn", _without_echo(text, asked)),
        ("turn markup", _without_markup(text)),
        ("leaked frame", _without_frames(text)),
        ("another turn", _without_other_turns(text)),
    ]
    if step == "revision":
        attempts.append(("preamble", _without_preamble(text)))
    return attempts


# A heading such as "Answer:" is not taken off: the request may have asked for it.
_PREFIX = {
    "answer": re.compile(r"[*#\s]*assistant\s*:\**\s*", re.IGNORECASE),
    "critique": re.compile(r"[*#\s]*(?:assistant|critique)\s*:\**\s*", re.IGNORECASE),
    "revision": re.compile(r"[*#\s]*(?:assistant|revision)\s*:\**\s*", re.IGNORECASE),
}


def _without_prefix(text: str, step: Step) -> str:
    prefix = _PREFIX[step].match(text)
    return text[prefix.end() :] if prefix else text


_USER = re.compile(r"[*#\s]*(?:human|user)\s*:\**\s*", re.IGNORECASE)
_ASSISTANT_LINE = re.compile(r"^[*#\s]*assistant\s*:", re.IGNORECASE | re.MULTILINE)
_TURN = re.compile(r"\n[^\S\n]*\n[*#\s]*(?:Human|User|Assistant)\s*:")
_SPEAKER_LINE = re.compile(r"^[*#\s]*(?:human|user|assistant)\s*:", re.IGNORECASE | re.MULTILINE)
# Quoted (`<|im_end|>`) it is spoken about.
_MARKUP = re.compile(
    r"(?<![`'\"])<\|?(?:im_start|im_end|eot_id|endoftext|end_of_text|start_header_id|end_header_id|"
    r"start_of_turn|end_of_turn)\|?>\s*(?:(?:system|user|assistant|model)\b)?\s*"
)


def _without_echo(text: str, asked: str) -> str:
    """Without the question said over again as the user's turn."""
    user = _USER.match(text)
    if not asked.strip() or user is None or not text[user.end() :].startswith(asked.strip()):
        return text
    return text[user.end() + len(asked.strip()) :].strip()


def _without_markup(text: str) -> str:
    """At the start the markup of a turn is an echo of the prompt; later on it ends what was said."""
    markup = _MARKUP.search(text)
    if markup is None:
        return text
    return text[markup.end() :].strip() if markup.start() == 0 else text[: markup.start()].strip()


def _without_other_turns(text: str) -> str:
    """The model's own turn, where it goes on with the user's and its next; a dialogue that was asked for stays whole:
    it is announced by a colon, or speakers are named from the first line on."""
    turn = _TURN.search(text)
    if turn is None:
        return text
    before = text[: turn.start()].rstrip()
    written = before.endswith((":", ":**")) or _SPEAKER_LINE.search(before)
    return text if written or not before else before


def _pieces(frame: str) -> list[str]:
    """The fixed parts of a frame that are long enough, two words or more, to be known when they stand alone."""
    parts = (part.strip() for part in re.split(r"\{\w+\}|\n", frame))
    return [part for part in parts if len(re.findall(r"[A-Za-z]{2,}", part)) >= 2]


def _leak() -> re.Pattern[str]:
    """A whole critique or revision frame with anything in its field, or one piece of any frame.

    A piece that ends with a colon announces the rest of its line and takes it along.
    """
    whole = [re.sub(r"\\\{\w+\\\}", ".*?", re.escape(frame)) for frame in (CRITIQUE, REVISION)]
    pieces = [piece for frame in (CRITIQUE, REVISION, JUDGE, SCORE) for piece in _pieces(frame)]
    single = [re.escape(piece) + (r"[^\n]*" if piece.endswith(":") else "") for piece in pieces]
    # Those of the published protocol, where they stand at the start of a line.
    published = r"(?:(?<=\n)|\A)[*#]*(?:CritiqueRequest|Critique Request|RevisionRequest|Revision Request):[^\n]*"
    return re.compile("|".join([*whole, *single, published]), re.DOTALL)


_LEAK = _leak()


def _without_frames(text: str) -> str:
    """At the start a frame is an echo and the answer follows; later on, everything from it on is another exchange."""
    leak = _LEAK.search(text)
    if leak is None:
        return text
    return text[leak.end() :].strip() if leak.start() == 0 else text[: leak.start()].strip()


_OPENING = re.compile(r"([^:\n]{1,120}):\**\s*")
_CHANGED = re.compile(
    r"\b(?:revis|rewrit|rewrote|reword|rephras|correct|improv|updat|edit|modif|amend|adjust)", re.IGNORECASE
)
_TEXT = re.compile(r"\b(?:answer|response|reply|version|revision|message)\b", re.IGNORECASE)
_SHOWING = re.compile(r"\b(?:here|below|following)\b", re.IGNORECASE)
_LABEL_WORDS = 4


def _without_preamble(text: str) -> str:
    """Without an opening that announces the changed text: "Sure, here is the revised answer:", "**New version:**".

    It ends in a colon on the first line, speaks of a changed text, and either shows it ("here is") or is a mere label.
    """
    opening = _OPENING.match(text)
    if opening is None:
        return text
    words = opening.group(1)
    announces = _CHANGED.search(words) and _TEXT.search(words)
    shows = _SHOWING.search(words) or len(words.split()) <= _LABEL_WORDS
    return text[opening.end() :] if announces and shows else text
