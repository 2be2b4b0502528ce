"""Taking off what a model puts around an answer: reasoning blocks, role prefixes, leaked frames, preambles.

Each rule is a pattern of form, not a list of phrases, and says by name what it took, so that a run can count it.
Whether an answer is any good is not judged here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cai.constitution.frames import CRITIQUE, JUDGE, REVISION, SCORE

Step = Literal["answer", "critique", "revision"]


@dataclass(frozen=True, slots=True)
class Cleaned:
    text: str
    removed: tuple[str, ...] = ()
    """What was taken off, in the order it was: "reasoning", "role prefix", "leaked frame" or "preamble"."""


def clean(text: str, step: Step) -> Cleaned:
    """The text alone. Cleaning twice changes nothing more."""
    removed: list[str] = []
    text = text.strip()
    while True:
        for name, cleaned in _attempts(text, step):
            if cleaned != text:
                text = cleaned
                removed.append(name)
                break
        else:
            return Cleaned(text, tuple(removed))


def without_reasoning(text: str) -> str:
    """The text without its `<think>` blocks; one that never closes takes the rest of the text with it.

    A closing tag alone counts as well: some templates write the opening one into the prompt.
    """
    text = re.sub(r"<think>.*?(?:</think>|\Z)", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].strip()


def folded(text: str) -> str:
    """The text as it is compared with another: runs of white space count as one space."""
    return " ".join(text.split())


def is_trivial(text: str) -> bool:
    """Whether the text says nothing: it holds no letter and no digit."""
    return not any(character.isalnum() for character in text)


def _attempts(text: str, step: Step) -> Sequence[tuple[str, str]]:
    attempts = [
        ("reasoning", without_reasoning(text)),
        ("role prefix", _without_prefix(text, step)),
        ("leaked frame", _without_frames(text)),
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
    return re.compile("|".join([*whole, *single]), re.DOTALL)


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
