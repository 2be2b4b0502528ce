"""Which of two answers is better by the constitution: every pair is judged in both orders, by label probabilities.

Nothing here depends on which answer a pair calls its first: the same two answers get the same preference either way.
A judge that gives no usable probabilities makes a reject, never a tie. `docs/decisions/pooling.md` says why principles
are pooled as they are; how one principle is asked lives in `asking`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cai.constitution.model import Constitution, Principle, drawn_order
from cai.errors import InputError
from cai.feedback.asking import Manner, Question, Reasoning, Unheard, ask
from cai.feedback.clean import folded, is_trivial, without_reasoning
from cai.feedback.guard import Key, guard
from cai.feedback.outcome import Outcome, asking, first_of_each, reason_at
from cai.feedback.pairs import CandidatePair
from cai.feedback.styles import Style, comparison_examples, frames_digest_of
from cai.models.protocol import Model
from cai.records import Lineage, Preference, PreferenceKind, Reject, Verdict, content_id
from cai.statistics import tempered

ROUNDING = 1e-9
CLAMP = 0.6
"""The surest label of a judge that reasons: thinking makes it more certain than it is right (arXiv 2212.08073)."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    principles: Literal["all", "drawn"] | int = "all"
    """Every principle with a preference text, or one or this many drawn for each pair by their weights."""
    tie_below: float = 0.6
    """A preference weaker than this is a tie."""
    contradiction_beyond: float = 0.7
    """Two orders that name different answers, both at least this surely, contradict each other."""
    certain_at: float | None = None
    """Ask one principle after the other, and stop for pairs that are this sure in both orders; None asks all."""
    tokens_per_pair: int | None = None
    """With `certain_at`: what all pairs together may cost in tokens, on average. Contested pairs get what is left."""
    style: Style = "chat"
    """How the judge is asked: as turns of a chat, or as the published protocol's plain text."""
    reasoning: Reasoning | None = None
    guarded: bool = True
    """An answer that speaks to the judge, or says nothing at length, loses as an empty one does."""
    temperature: float = 1.0
    """Divides the log-odds of what was pooled: above 1 for a judge that is surer than it is right."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What all verdicts on an answer come to: the probability that it is the better one."""

    p: float
    kind: PreferenceKind
    certainty: float
    """How sure the less sure order is of the same answer; 0 where they name different ones."""


@dataclass(frozen=True, slots=True)
class _Side:
    text: str
    shown: str
    """The text as the judge sees it, without reasoning."""
    guarded_for: str = ""
    """What kind of text it is that must not win."""

    @property
    def says_nothing(self) -> bool:
        return is_trivial(self.shown)

    @property
    def loses(self) -> bool:
        return self.says_nothing or bool(self.guarded_for)


@dataclass(slots=True)
class _Contest:
    """A pair in an order of its own, so that the order it came in cannot matter, and what was heard of it so far."""

    pair: CandidatePair
    left: _Side
    right: _Side
    agenda: tuple[Principle, ...]
    verdicts: list[Verdict] = field(default_factory=list)
    ways: set[str] = field(default_factory=set)
    lost: list[Unheard] = field(default_factory=list)
    tokens: int = 0

    @property
    def needs_judge(self) -> bool:
        """An answer that says nothing or speaks to the judge loses, whatever a judge might see in it."""
        return not (self.left.loses or self.right.loses)

    @property
    def guarded_for(self) -> tuple[str, ...]:
        return tuple(side.guarded_for for side in (self.left, self.right) if side.guarded_for)

    @property
    def asked(self) -> int:
        return len(self.verdicts) + len(self.lost)

    def decision(self, settings: JudgeSettings) -> Decision:
        """Where principles were drawn by their weights, they have had their say in the draw."""
        every = settings.principles == "all"
        weights = [principle.weight if every else 1.0 for principle in self.agenda[: len(self.verdicts)]]
        return decide(self.verdicts, weights, settings)

    def questions(self, number: int | None) -> list[Question]:
        """The next ones, or all that are left."""
        row, sides = self.pair, (self.left.shown, self.right.shown)
        return [Question(row.id, row.prompt, *sides, principle) for principle in self.agenda[self.asked :][:number]]


def judge(
    pairs: Sequence[CandidatePair], constitution: Constitution, judge_model: Model, settings: JudgeSettings, seed: int
) -> Outcome[Preference]:
    """A `Preference` for each pair, or a reject."""
    usable = _judging(constitution)
    outcome: Outcome[Preference] = Outcome()
    contests: list[_Contest] = []
    rows = first_of_each(pairs, "prefer", outcome.rejects)
    guarded = guard(rows, [p.preference for p in usable.principles]) if settings.guarded else {}
    for pair in rows:
        contest = _contest(pair, usable, settings, seed, guarded)
        refusal = _refusal(contest)
        if refusal is None:
            contests.append(contest)
        else:
            outcome.rejects.append(refusal)
    with asking("judgement"):
        _hear([contest for contest in contests if contest.needs_judge], constitution, judge_model, settings, seed)
    asked_in = frames_digest_of(settings.style, reasoned=settings.reasoning is not None)
    for contest in contests:
        made_by = (contest.pair.answerer, contest.pair.critic)
        lineage = Lineage(constitution.behaviour_digest, asked_in, seed, *made_by)
        if not contest.needs_judge:
            outcome.notes["decided without the judge"] += 1
            outcome.notes.update(f"guarded: {kind}" for kind in contest.guarded_for)
            outcome.records.append(_by_walkover(contest, lineage))
        elif contest.lost:
            outcome.rejects.append(_unheard(contest))
        else:
            lineage = replace(lineage, judge=judge_model.fingerprint, judged_by=", ".join(sorted(contest.ways)))
            outcome.records.append(_preference(contest, settings, lineage))
    outcome.notes.update(_spent(contests, settings))
    return outcome


def decide(verdicts: Sequence[Verdict], weights: Sequence[float], settings: JudgeSettings) -> Decision:
    """All principles and both orders pooled into one probability, and what kind of preference that is."""
    pooled = (
        pool([verdict.p for verdict in verdicts], weights),
        pool([verdict.p_first for verdict in verdicts], weights),
        pool([verdict.p_first_swapped for verdict in verdicts], weights),
    )
    p, shown_first, shown_second = (_settled(tempered(each, settings.temperature)) for each in pooled)
    opposed = (shown_first - 0.5) * (shown_second - 0.5) < 0
    surest_of_both = min(max(q, 1 - q) for q in (shown_first, shown_second))
    label = min(max(p, 1 - CLAMP), CLAMP) if settings.reasoning else p
    if opposed:
        return Decision(label, "contradiction" if surest_of_both >= settings.contradiction_beyond else "tie", 0.0)
    return Decision(label, "tie" if max(p, 1 - p) < settings.tie_below else "preferred", surest_of_both)


def _settled(p: float) -> float:
    """One half, where only rounding keeps a probability from it."""
    return 0.5 if abs(p - 0.5) < ROUNDING else p


def pool(ps: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of probabilities, each counted by its weight and by how decided it is: c = |2p - 1|."""
    counts = [weight * abs(2 * p - 1) for p, weight in zip(ps, weights, strict=True)]
    total = sum(counts)
    return sum(count * p for p, count in zip(ps, counts, strict=True)) / total if total else 0.5


def _hear(
    contests: Sequence[_Contest], constitution: Constitution, model: Model, settings: JudgeSettings, seed: int
) -> None:
    """Asks what the settings call for: everything at once, or principle after principle where pairs stay contested."""
    examples = comparison_examples(settings.style, constitution, seed)
    manner = Manner(settings.style, examples, settings.reasoning)
    at_once = settings.certain_at is None
    wave = list(contests)
    while wave:
        asked = [(contest, question) for contest in wave for question in contest.questions(None if at_once else 1)]
        heard = ask([question for _, question in asked], manner, model, seed)
        for (contest, _), told in zip(asked, heard, strict=True):
            if isinstance(told, Unheard):
                contest.lost.append(told)
            else:
                contest.verdicts.append(told.verdict)
                contest.ways |= told.ways
                contest.tokens += told.tokens
        wave = _contested(contests, settings)


def _contested(contests: Sequence[_Contest], settings: JudgeSettings) -> list[_Contest]:
    """Whom to ask about again: pairs that are not certain yet and have principles left, within what may be spent.

    The least certain come first. What another principle costs is taken from what the last ones did.
    """
    if settings.certain_at is None:
        return []
    doubts = {}
    for i, contest in enumerate(contests):
        if not contest.lost and contest.asked < len(contest.agenda):
            certainty = contest.decision(settings).certainty
            if certainty < settings.certain_at:
                doubts[i] = certainty
    wave = [contests[i] for i in sorted(doubts, key=lambda i: (doubts[i], i))]
    if settings.tokens_per_pair is None:
        return wave
    left = float(settings.tokens_per_pair * len(contests) - sum(contest.tokens for contest in contests))
    affordable = []
    for contest in wave:
        left -= contest.tokens / contest.asked
        if left < 0:
            break
        affordable.append(contest)
    return affordable


def _spent(contests: Sequence[_Contest], settings: JudgeSettings) -> dict[str, int]:
    if settings.certain_at is None:
        return {}
    heard = [contest for contest in contests if contest.verdicts]
    unasked = sum(len(contest.agenda) - contest.asked for contest in heard)
    return {"principles asked": sum(contest.asked for contest in heard), "principles not needed": unasked}


def _judging(constitution: Constitution) -> Constitution:
    """The constitution as the judge sees it: only principles that say which answer to prefer."""
    usable = constitution.for_use("judge")
    if not usable:
        raise InputError(
            constitution.path,
            "no principle has a preference text, so nothing can be judged",
            remedy="add one to at least one principle",
        )
    return replace(constitution, principles=usable)


def _contest(
    pair: CandidatePair, usable: Constitution, settings: JudgeSettings, seed: int, guarded: Mapping[Key, str]
) -> _Contest:
    # By hash and not by alphabet: at exactly even odds the left one is called chosen, and that must favour no wording.
    left, right = (
        _Side(text, without_reasoning(text), guarded.get((pair.id, text), ""))
        for text in sorted((pair.first, pair.second), key=content_id)
    )
    if settings.principles == "all" and settings.certain_at is None:
        return _Contest(pair, left, right, usable.principles)
    drawn = drawn_order(usable, seed, pair.id, 0)
    match settings.principles:
        case "all":
            return _Contest(pair, left, right, drawn)
        case "drawn":
            return _Contest(pair, left, right, drawn[:1])
        case wanted:
            return _Contest(pair, left, right, drawn[:wanted])


def _refusal(contest: _Contest) -> Reject | None:
    pair, left, right = contest.pair, contest.left, contest.right
    if left.says_nothing and right.says_nothing:
        return Reject(pair.id, "prefer", "trivial answers", "neither answer holds a letter or a digit")
    if folded(left.shown) == folded(right.shown):
        return Reject(pair.id, "prefer", "identical answers", "there is nothing to choose between")
    if left.loses and right.loses:
        kinds = " and ".join(sorted(side.guarded_for or "says nothing" for side in (left, right)))
        return Reject(pair.id, "prefer", "guarded answers", f"neither answer may win: {kinds}")
    return None


def _by_walkover(contest: _Contest, lineage: Lineage) -> Preference:
    """Certain, without verdicts and without a judge in the lineage, because none was asked; the guard where it was."""
    pair, left, right = contest.pair, contest.left, contest.right
    chosen, rejected = (right, left) if left.loses else (left, right)
    lineage = replace(lineage, judged_by="".join(f"guard: {kind}" for kind in contest.guarded_for))
    return Preference(pair.prompt, chosen.text, rejected.text, 1.0, (), "preferred", lineage, pair.origin)


def _unheard(contest: _Contest) -> Reject:
    """A pair is judged by all that it was to be judged by, or not at all."""
    first, lost = contest.lost[0], sum(question.lost for question in contest.lost)
    detail = f"{lost} of {contest.asked * first.judgements} judgements: {first.detail}"
    return Reject(contest.pair.id, "prefer", reason_at("judgement", first.reason), detail)


def _preference(contest: _Contest, settings: JudgeSettings, lineage: Lineage) -> Preference:
    on_left = tuple(contest.verdicts)
    decision = contest.decision(settings)
    pair, left, right = contest.pair, contest.left.text, contest.right.text
    if decision.p >= 0.5:
        return Preference(pair.prompt, left, right, decision.p, on_left, decision.kind, lineage, pair.origin)
    on_right = tuple(verdict.turned() for verdict in on_left)
    return Preference(pair.prompt, right, left, 1 - decision.p, on_right, decision.kind, lineage, pair.origin)
