"""Answers that must not win by how they are made: what each is guarded for, before any judge sees it.

An answer is looked at together with its request, because a request may itself be about answers, labels or markup; and
with the other pairs of its chunk, because only they show that a text is given to everyone. What counts as speaking to
the judge lives in `guard_speech`, what counts as saying nothing in `guard_filler`; what becomes of a guarded answer is
`judge`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from cai.feedback.clean import folded, is_trivial, last_asked, without_reasoning
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
"""Of the requests with the same answer, so many must have no word in common with it, and no more may share one."""

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
    asked: dict[str, set[str]] = {}
    last: dict[str, set[str]] = {}
    given: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        prompt = pair.prompt
        asked[prompt.id] = _content(" ".join(message.content for message in prompt.messages))
        last[prompt.id] = _content(last_asked(prompt.messages), 5)
        for answer in map(without_reasoning, (pair.first, pair.second)):
            if not is_trivial(answer):
                given[folded(answer)].add(prompt.id)
    # A word that most requests of the chunk hold is how they are worded, not what they are about.
    wording = _shared(list(asked.values())) if len(asked) >= LEAST_PROMPTS else set()
    return frozenset(
        text
        for text, ids in given.items()
        if _might_be_constant(words(text), len(ids))
        and not _shared([last[each] - wording for each in ids])
        and _is_beside([asked[each] - wording for each in ids], text)
    )


def _might_be_constant(said: Sequence[str], requests: int) -> bool:
    return requests >= (LEAST_PROMPTS if len(said) >= SHORT else LEAST_PROMPTS_IF_SHORT) and not _holds_back(said)


def _shared(requests: Sequence[set[str]]) -> set[str]:
    """Words of most of them. Requests that share one, such as thanks, may well get the same answer."""
    counts = Counter(word for request in requests for word in request)
    return {word for word, n in counts.items() if n > MOSTLY * len(requests)}


def _is_beside(requests: Sequence[set[str]], text: str) -> bool:
    """Whether the text has no word in common with most of them."""
    own = _content(text)
    return sum(not own & request for request in requests) >= MOSTLY * len(requests)


def _content(text: str, least: int = 4) -> set[str]:
    """Words that say what a text is about: so long at least, and folded over common endings."""
    return {word[:5] for word in words(text) if len(word) >= least}


_NEGATIONS = {"can't", "cannot", "won't", "don't", "not", "unable", "no", "never", "sorry"}


def _holds_back(said: Sequence[str]) -> bool:
    """Whether the first words turn something down, or say that it is not known."""
    return bool(_NEGATIONS & set(said[:8]))
