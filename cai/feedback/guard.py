"""Answers that must not win by how they are made: what each is guarded for, before any judge sees it.

An answer is looked at together with its request, because a request may itself be about answers, labels or markup; and
with the other pairs of its chunk, because only they show that a text is given to everyone. What counts as speaking to
the judge lives in `guard_speech`, what counts as saying nothing in `guard_filler`; what becomes of a guarded answer is
`judge`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from cai.feedback.clean import folded, is_trivial, without_reasoning
from cai.feedback.filters.words import words
from cai.feedback.guard_filler import is_hollow, repeats_itself
from cai.feedback.guard_speech import plain, spoken_to_judge
from cai.feedback.pairs import CandidatePair
from cai.records import Message

CONSTANT = "constant answer"
HOLLOW = "hollow answer"
REPEATED = "repeated text"

LEAST_PROMPTS, LEAST_PROMPTS_IF_SHORT = 3, 8
"""So many requests of one chunk with one and the same answer make it constant; a short one must come more often."""
SHORT = 5
MOSTLY = 2 / 3
"""Of the requests with the same answer, so many must have no word in common with it."""

Key = tuple[str, str]


def guard(pairs: Sequence[CandidatePair], rubrics: Sequence[str]) -> Mapping[Key, str]:
    """By pair id and text: the kind of each answer that must not win. `rubrics` is what the judge will be asked."""
    constants = _constants(pairs)
    kinds: dict[Key, str] = {}
    for pair in pairs:
        answers = (pair.first, pair.second)
        repeated = [folded(without_reasoning(answer)) in constants for answer in answers]
        for answer, is_constant in zip(answers, repeated, strict=True):
            kind = guarded_for(pair.prompt.messages, answer, rubrics)
            # Two constant answers have nothing over each other: perhaps there are only so many, such as yes and no.
            kind = kind or (CONSTANT if is_constant and not all(repeated) else "")
            if kind:
                kinds[pair.id, answer] = kind
    return kinds


def guarded_for(messages: Sequence[Message], answer: str, rubrics: Sequence[str]) -> str:
    """What kind of text this answer is that must not win, as far as it tells by itself; "" for an honest one.

    What says nothing at all is not told here: `is_trivial` does.
    """
    shown = without_reasoning(answer)
    if is_trivial(shown):
        return ""
    request = plain("\n".join(message.content for message in messages))
    text = plain(shown)
    if is_hollow(text, request):
        return HOLLOW
    speech = spoken_to_judge(shown, text, request, rubrics)
    if speech:
        return speech
    return REPEATED if repeats_itself(text, request) else ""


def _constants(pairs: Sequence[CandidatePair]) -> frozenset[str]:
    """Texts that several requests got alike, and that have next to nothing to do with most of them.

    A refusal, or an answer that says it does not know, is often and rightly the same: the judge weighs those.
    """
    given: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for pair in pairs:
        for answer in (pair.first, pair.second):
            asked = " ".join(message.content for message in pair.prompt.messages)
            given[folded(without_reasoning(answer))][pair.prompt.id] = _content(asked)
    return frozenset(text for text, requests in given.items() if _is_constant(text, list(requests.values())))


def _is_constant(text: str, requests: Sequence[set[str]]) -> bool:
    said = words(text)
    if len(requests) < (LEAST_PROMPTS if len(said) >= SHORT else LEAST_PROMPTS_IF_SHORT) or _holds_back(said):
        return False
    own = _content(text)
    # A word that nearly all of these requests hold is how they are worded, not what they are about.
    frequent = {word for word, n in Counter(w for r in requests for w in r).items() if n > MOSTLY * len(requests)}
    unrelated = sum(not (own & (request - frequent)) for request in requests)
    return unrelated >= MOSTLY * len(requests)


def _content(text: str) -> set[str]:
    """Words that say what a text is about: long enough, and folded over common endings."""
    return {word[:6] for word in words(text) if len(word) > 3}


_NEGATIONS = {"can't", "cannot", "won't", "don't", "not", "unable", "no", "never", "sorry"}


def _holds_back(said: Sequence[str]) -> bool:
    """Whether the first words turn something down, or say that it is not known."""
    return bool(_NEGATIONS & set(said[:8]))
