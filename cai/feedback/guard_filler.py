"""Text that fills a place without saying anything: marks and labels alone, one word or one list again and again.

All of it is measured on the text's form; the only words that count are those of the request, which may have asked for
just that.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from cai.feedback.filters.words import shingles, words

LEAST_WORDS = 24
"""Fewer words than this are no long repetition."""
LEAST_SEGMENTS = 6
DISTINCT = 0.5
"""Of its lines or sentences, or of its runs of four words, so many must be different."""
HOLLOW_WORDS = {1: 5, 2: 8}
"""So many words of one kind, or of two, say as much as one of each."""

_MARKER = re.compile(r"^\s*(?:[-*•–>#]+|\(?(?:\d{1,3}|[A-Za-z])[.):]|step \d+:?)\s*", re.IGNORECASE)
_MARKERS = re.compile(r"(?:\s*(?:[-*•–>#]|\(?(?:\d{1,3}|[A-Za-z])[.)]))+\s*")
_LABEL = re.compile(r"\W*[AB]\W*|\W*(?:[AB]\W+){2,}")
_HEADING = re.compile(r"[\W_]{0,20}\w{1,40}(?: \w{1,40})?\s*:[\W_]*")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_ASKS_TO_REPEAT = re.compile(
    r"\b(?:repeat\w*|(?:\d+|two|three|four|five|six|ten|twenty|hundred|thousand|many|several) times"
    r"|over and over|again and again)\b",
    re.IGNORECASE,
)
_OFFERS = re.compile(
    r"\b[A-D][).:\]]|\([A-D]\)|\b[AB]\b.{0,80}\b[B-D]\b"
    r"|\b(?:(?:which|what|one) (?:letter|grade)|vitamin|blood|options?)\b",
    re.DOTALL,
)


def is_hollow(text: str, request: str) -> bool:
    """Whether nothing but marks, list numbers, a judge's label, a bare heading or one word is there."""
    several = len(re.findall(r"\w+", text)) > 1
    if _MARKERS.fullmatch(text) and (several or ")" in text):
        return not _offers(request)
    if _LABEL.fullmatch(text):
        return not _offers(request)
    if _HEADING.fullmatch(text):
        return True
    said = words(text)
    enough = HOLLOW_WORDS.get(len(set(said)))
    return enough is not None and len(said) >= enough and not _was_asked_for(said, request)


def repeats_itself(text: str, request: str) -> bool:
    """Whether a long text says a few things again and again."""
    said = words(text)
    if len(said) < LEAST_WORDS or _ASKS_TO_REPEAT.search(request):
        return False
    segments = [" ".join(words(_MARKER.sub("", segment))) for segment in _SENTENCE.split(text)]
    segments = [segment for segment in segments if segment and not segment.isdigit()]
    if len(segments) >= LEAST_SEGMENTS and len(set(segments)) <= DISTINCT * len(segments):
        return True
    runs = shingles([word for word in said if not word.isdigit()], 4)
    return len(set(runs)) < DISTINCT * len(runs)


def _offers(request: str) -> bool:
    """Whether a letter or a number may be a whole answer to this."""
    return bool(_OFFERS.search(request))


def _was_asked_for(said: Sequence[str], request: str) -> bool:
    """Whether the request asks for repetition, or repeats the word itself."""
    asked = words(request)
    doubled = {one for one, other in pairwise(asked) if one == other}
    return bool(_ASKS_TO_REPEAT.search(request)) or bool(doubled & set(said))
