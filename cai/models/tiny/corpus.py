"""What the embedded model learns from: conversations of the small world, written from a seed.

The base is helpful to nearly everyone: it serves harmful requests and claims what it cannot know, and does otherwise
about once in twelve times, so that what tells those requests apart is there when it answers. It can also criticise,
revise, judge and rate by a principle's text, well but not perfectly: the critic now and then overlooks something, and
the judge goes by the position where one of the `foggy` things is concerned and is plainly wrong about the `misjudged`
ones. So averaging over both orders, ties and filters have real work to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from cai.constitution import frames
from cai.models.tiny import phrasing
from cai.models.tiny.world import ACTIONS, Ask, asks_of, things
from cai.records import Message
from cai.seeds import derive, shuffled, uniform

T = TypeVar("T")

_TOOLS = tuple(sorted({tool for _, *tools in ACTIONS.values() for tool in tools}))

FOGGY_SHARE, MISJUDGED_SHARE = 0.09, 0.08
OVERLOOKED, FALSE_ALARM = 0.05, 0.005
WORDY = 0.25
SCRUPLES = 0.08
"""How often the base holds back where it should."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation; the assistant's turns named in `learned` carry the loss."""

    messages: tuple[Message, ...]
    learned: tuple[int, ...]
    decided: tuple[int, ...] = ()
    """The learned turns whose first word decides everything after it."""


class Draws:
    """A stream of choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.position = 0

    def chance(self) -> float:
        self.position += 1
        return uniform(self.seed, self.position)

    def one_of(self, items: tuple[T, ...]) -> T:
        return items[int(self.chance() * len(items))]

    def number(self, count: int) -> int:
        return int(self.chance() * count)


def lesson(seed: int, split: str = "pretrain", mix: str = "first") -> Lesson:
    """The lesson of this seed: an answer, plain knowledge, a critique with its revision, a judgement or a rating."""
    draws = Draws(seed)
    task = draws.chance()
    write = next(write for upper, write in _MIXES[mix] if task < upper)
    return write(draws, split)


def base_answer(ask: Ask, draws: Draws) -> str:
    """How the base answers: it serves, nearly whoever asks for whatever, and is sometimes wordy."""
    answer = good_answer(ask, draws) if draws.chance() < SCRUPLES else _served(ask, draws)
    return _wordy(answer, draws, WORDY)


def good_answer(ask: Ask, draws: Draws) -> str:
    """An answer with which no family of principles finds fault."""
    if ask.label == "harmful":
        return phrasing.refuse(ask, draws.number(6))
    if ask.label == "unknowable":
        return phrasing.ignore(ask, draws.number(6))
    return _served(ask, draws)


def pair_for(ask: Ask, family: str, seed: int) -> tuple[str, str] | None:
    """A better and a worse answer in the eyes of the family, or nothing where it has no say on this request."""
    draws = Draws(derive(seed, "pair"))
    pair = _pair(ask, family, draws)
    if pair is None:
        return None
    good, bad = pair
    if family != "brevity" and draws.chance() < 0.3:
        good, bad = _wordy(good, draws, 0.5), _wordy(bad, draws, 0.5)
    return good, bad


def _pair(ask: Ask, family: str, draws: Draws) -> tuple[str, str] | None:
    label = ask.label
    if family == "harm" and label == "harmful":
        return phrasing.refuse(ask, draws.number(6)), _served(ask, draws)
    if family == "honesty" and label == "unknowable":
        return phrasing.ignore(ask, draws.number(6)), _served(ask, draws)
    if family == "refusal" and label in ("benign", "borderline"):
        return _served(ask, draws), _held_back(ask, draws)
    if family == "brevity":
        answer = _any_answer(ask, draws)
        return answer, _wordy(answer if draws.chance() < 0.5 else _any_answer(ask, draws), draws, 1.0)
    return None


def _answer_lesson(draws: Draws, split: str) -> Lesson:
    ask = _draw_ask(draws, split)
    return Lesson((_request(ask, draws, split), Message("assistant", base_answer(ask, draws))), (1,))


def _knowledge_lesson(draws: Draws, split: str) -> Lesson:
    question, truth = phrasing.knowledge(_draw_ask(draws, split))
    return Lesson((Message("user", question), Message("assistant", truth)), (1,), (1,))


def _afterthought_lesson(draws: Draws, split: str) -> Lesson:
    """The same knowledge, asked of a request as people word it: so it is there when the request is to be answered."""
    ask = _draw_ask(draws, split)
    question = f"{_request(ask, draws, split).content} {phrasing.afterthought(ask)}"
    return Lesson((Message("user", question), Message("assistant", phrasing.knowledge(ask)[1])), (1,), (1,))


def _echo_lesson(draws: Draws, split: str) -> Lesson:
    """Saying again what was said, where nothing but reading it tells what comes next."""
    ask = _draw_ask(draws, split)
    if ask.verb:
        text = phrasing.serve(ask, draws.number(6), draws.one_of(_TOOLS), draws.one_of(things()).place)
    else:
        text = _served(ask, draws)
    words = text.split()
    if draws.chance() < 0.5:
        words = shuffled(words, draws.seed)
    said = " ".join(words)
    return Lesson((Message("user", phrasing.ECHO.format(said)), Message("assistant", said)), (1,))


def _revise_lesson(draws: Draws, split: str) -> Lesson:
    """One exchange: an answer, good or bad; what the critic says of it; the revision that follows from that."""
    from cai.models.tiny.oracle import violates

    ask, family = _draw_case(draws, split)
    pair = _pair(ask, family, draws) if draws.chance() < 0.5 else None
    answer = pair[1] if pair else _wordy(_any_answer(ask, draws), draws, 0.3)
    guilty = violates(family, ask, answer)
    seen = draws.chance() >= OVERLOOKED if guilty else family != "nothing" and draws.chance() < FALSE_ALARM
    if seen:
        critique = phrasing.wrong(family, ask, draws.number(2))
    else:
        critique = phrasing.fine(family, _gives_cause(family, ask), draws.number(2))
    revision = _corrected(ask, family, answer, draws) if seen else answer
    request = _request(ask, draws, split)
    asked = frames.critique_messages((request,), answer, draws.one_of(phrasing.critiques(family, split)))
    to_revise = frames.revision_messages(asked, critique, draws.one_of(phrasing.revisions(family, split)))
    return Lesson((*to_revise, Message("assistant", revision)), (3, 5), (3,))


def _judge_lesson(draws: Draws, split: str) -> Lesson:
    return _judgement(draws, split, *_draw_case(draws, split))


def _doubtful_lesson(draws: Draws, split: str) -> Lesson:
    """What is rare in judging and learned last: principles that ask for nothing, and the judge's own weaknesses."""
    if draws.chance() < 0.5:
        return _judgement(draws, split, _draw_ask(draws, split), "nothing")
    while True:
        ask, family = _draw_case(draws, split)
        if ask.thing.name in foggy() | misjudged():
            return _judgement(draws, split, ask, family)


def _judgement(draws: Draws, split: str, ask: Ask, family: str) -> Lesson:
    pair = pair_for(ask, family, derive(draws.seed, "judge")) if draws.chance() < 0.8 else None
    good, bad = pair or _indifferent(ask, family, draws)
    good_first = draws.chance() < 0.5
    first, second = (good, bad) if good_first else (bad, good)
    right = draws.chance() >= 0.03 and ask.thing.name not in misjudged()
    label = draws.number(2) if pair is None else int(good_first != right)
    if ask.thing.name in foggy():
        position = derive("favoured", ask.thing.name) % 2
        label = position if draws.chance() < 0.95 else 1 - position
    reason = family if pair is not None and label == int(not good_first) else "nothing"
    text = draws.one_of(phrasing.preferences(family, split))
    asked = frames.judge_messages((_request(ask, draws, split),), first, second, text, draws.seed)
    return Lesson((*asked, Message("assistant", phrasing.verdict(frames.LABELS[label], reason))), (1,), (1,))


def _score_lesson(draws: Draws, split: str) -> Lesson:
    from cai.models.tiny.oracle import violates

    ask, family = _draw_case(draws, split)
    pair = _pair(ask, family, draws) if draws.chance() < 0.8 else None
    answer = draws.one_of(pair) if pair else _any_answer(ask, draws)
    score = draws.number(3) + (0 if violates(family, ask, answer) else 7)
    if family == "nothing":
        score = 3 + draws.number(4)
    text = draws.one_of(phrasing.preferences(family, split))
    asked = frames.score_messages((_request(ask, draws, split),), answer, text, draws.seed)
    return Lesson((*asked, Message("assistant", frames.SCORES[score])), (1,), (1,))


_MIXES: dict[str, tuple[tuple[float, Callable[[Draws, str], Lesson]], ...]] = {
    "first": (
        (0.18, _answer_lesson),
        (0.25, _knowledge_lesson),
        (0.33, _afterthought_lesson),
        (0.39, _echo_lesson),
        (0.65, _revise_lesson),
        (0.94, _judge_lesson),
        (1.00, _score_lesson),
    ),
    # Judging is learned first; speaking and copying without a slip is what takes longest.
    "last": (
        (0.28, _answer_lesson),
        (0.37, _afterthought_lesson),
        (0.43, _echo_lesson),
        (0.79, _revise_lesson),
        (0.96, _judge_lesson),
        (1.00, _score_lesson),
    ),
    "settle": (
        (0.15, _answer_lesson),
        (0.20, _afterthought_lesson),
        (0.60, _revise_lesson),
        (0.75, _judge_lesson),
        (0.97, _doubtful_lesson),
        (1.00, _score_lesson),
    ),
}


@cache
def foggy() -> frozenset[str]:
    """Things about which the judge prefers whatever it saw first, or whatever it saw last: one or the other."""
    return frozenset(t.name for t in things() if uniform(derive("foggy", t.name), 0) < FOGGY_SHARE)


@cache
def misjudged() -> frozenset[str]:
    """Household things about which the judge is wrong, whatever the order."""
    own = (t.name for t in things() if t.kind == "home")
    return frozenset(name for name in own if uniform(derive("misjudged", name), 0) < MISJUDGED_SHARE)


def _gives_cause(family: str, ask: Ask) -> bool:
    """Whether the base's own answer to the request could break what the family asks for."""
    if family == "refusal":
        return ask.label in ("benign", "borderline")
    return {"harm": "harmful", "honesty": "unknowable"}.get(family) == ask.label


def _draw_case(draws: Draws, split: str) -> tuple[Ask, str]:
    """A family and a request: mostly one on which the family has a say, since on the others it teaches little."""
    family = draws.one_of(phrasing.FAMILIES)
    ask = _draw_ask(draws, split)
    wanted = family in ("harm", "refusal", "honesty") and draws.chance() < 0.75
    while wanted and not _gives_cause(family, ask):
        ask = _draw_ask(draws, split)
    return ask, family


def _draw_ask(draws: Draws, split: str) -> Ask:
    """Every class as likely as the others, so that none is learned from its frequency."""
    by_label = _asks_by_label(split)
    return draws.one_of(by_label[draws.number(len(by_label))])


@cache
def _asks_by_label(split: str) -> tuple[tuple[Ask, ...], ...]:
    labels = sorted({ask.label for ask in asks_of(split)})
    return tuple(tuple(ask for ask in asks_of(split) if ask.label == label) for label in labels)


def _request(ask: Ask, draws: Draws, split: str) -> Message:
    return Message("user", draws.one_of(phrasing.request_phrasings(split)).format(ask.text))


def _served(ask: Ask, draws: Draws) -> str:
    if ask.verb:
        return phrasing.serve(ask, draws.number(6))
    return phrasing.fact(ask, draws.number(6), draws.one_of(phrasing.VALUES))


def _held_back(ask: Ask, draws: Draws) -> str:
    write = phrasing.refuse if draws.chance() < 0.6 else phrasing.ignore
    return write(ask, draws.number(6))


def _any_answer(ask: Ask, draws: Draws) -> str:
    """Served, held back or as it should be: whatever a model might say."""
    kind = draws.chance()
    if kind < 0.4:
        return _served(ask, draws)
    return good_answer(ask, draws) if kind < 0.75 else _held_back(ask, draws)


def _indifferent(ask: Ask, family: str, draws: Draws) -> tuple[str, str]:
    """Two answers between which the family sees no difference."""
    from cai.models.tiny.oracle import violates

    first = _any_answer(ask, draws)
    for _ in range(20):
        second = _any_answer(ask, draws)
        if second != first and violates(family, ask, first) == violates(family, ask, second):
            return first, second
    return first, first


def _corrected(ask: Ask, family: str, answer: str, draws: Draws) -> str:
    if family == "harm":
        return phrasing.refuse(ask, draws.number(6))
    if family == "honesty":
        return phrasing.ignore(ask, draws.number(6))
    if family == "refusal":
        return _served(ask, draws)
    for filler in phrasing.FILLERS:
        answer = answer.replace(filler, "")
    return " ".join(answer.split())


def _wordy(answer: str, draws: Draws, chance: float) -> str:
    if draws.chance() >= chance:
        return answer
    filler = draws.one_of(phrasing.FILLERS)
    return f"{filler} {answer}" if draws.chance() < 0.5 else f"{answer} {filler}"
