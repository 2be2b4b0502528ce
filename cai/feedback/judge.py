"""Which of two answers is better by the constitution: every pair is judged in both orders, by label probabilities.

Nothing here depends on which answer a pair calls its first: the same two answers get the same preference either way.
A judge that gives no usable probabilities makes a reject, never a tie. `docs/decisions/pooling.md` says why principles
are pooled as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isnan
from typing import Literal

from cai.constitution.model import Constitution, Principle, draw_principle
from cai.errors import InputError
from cai.feedback.clean import folded, is_trivial, without_reasoning
from cai.feedback.outcome import Outcome, first_of_each
from cai.feedback.pairs import CandidatePair
from cai.feedback.styles import Asked, Style, ask_judge, comparison_examples, frames_digest_of, labels_of
from cai.models.protocol import Choice, ChoiceRequest, Failed, Model
from cai.records import Lineage, Preference, PreferenceKind, Reject, Verdict, content_id
from cai.seeds import derive


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    principles: Literal["drawn", "all"] = "all"
    """Every principle with a preference text, or one drawn for each pair."""
    tie_below: float = 0.6
    """A preference weaker than this is a tie."""
    contradiction_beyond: float = 0.7
    """Two orders that name different answers, both at least this surely, contradict each other."""
    style: Style = "chat"
    """How the judge is asked: as turns of a chat, or as the published protocol's plain text."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What all verdicts on an answer come to: the probability that it is the better one."""

    p: float
    kind: PreferenceKind


@dataclass(frozen=True, slots=True)
class _Side:
    text: str
    shown: str
    """The text as the judge sees it, without reasoning."""

    @property
    def says_nothing(self) -> bool:
        return is_trivial(self.shown)


@dataclass(frozen=True, slots=True)
class _Contest:
    """A pair in an order of its own, so that the order it came in cannot matter."""

    pair: CandidatePair
    left: _Side
    right: _Side
    principles: tuple[Principle, ...]

    @property
    def needs_judge(self) -> bool:
        """An answer that says nothing loses, whatever a judge might see in it."""
        return not (self.left.says_nothing or self.right.says_nothing)


def judge(
    pairs: Sequence[CandidatePair], constitution: Constitution, judge_model: Model, settings: JudgeSettings, seed: int
) -> Outcome[Preference]:
    """A `Preference` for each pair, or a reject."""
    usable = _judging(constitution)
    examples = comparison_examples(settings.style, constitution, seed)
    outcome: Outcome[Preference] = Outcome()
    contests: list[_Contest] = []
    for pair in first_of_each(pairs, "prefer", outcome.rejects):
        contest = _contest(pair, usable, settings, seed)
        refusal = _refusal(contest)
        if refusal is None:
            contests.append(contest)
        else:
            outcome.rejects.append(refusal)
    requests = [request for c in contests if c.needs_judge for request in _requests(c, examples, settings.style, seed)]
    choices = judge_model.choose(requests) if requests else []
    assert len(choices) == len(requests), (judge_model.name, len(choices), len(requests))
    told = iter(choices)
    for contest in contests:
        made_by = (contest.pair.answerer, contest.pair.critic)
        lineage = Lineage(constitution.behaviour_digest, frames_digest_of(settings.style), seed, *made_by)
        if not contest.needs_judge:
            outcome.notes["decided without the judge"] += 1
            outcome.records.append(_by_walkover(contest, lineage))
            continue
        own = list(islice(told, 2 * len(contest.principles)))
        verdicts = _verdicts(contest, own, labels_of(settings.style))
        if isinstance(verdicts, Reject):
            outcome.rejects.append(verdicts)
            continue
        lineage = replace(lineage, judge=judge_model.fingerprint, judged_by=_ways(own))
        outcome.records.append(_preference(contest, verdicts, settings, lineage))
    return outcome


def decide(verdicts: Sequence[Verdict], weights: Sequence[float], settings: JudgeSettings) -> Decision:
    """All principles and both orders pooled into one probability, and what kind of preference that is."""
    p = pool([verdict.p for verdict in verdicts], weights)
    shown_first = pool([verdict.p_first for verdict in verdicts], weights)
    shown_second = pool([verdict.p_first_swapped for verdict in verdicts], weights)
    opposed = (shown_first - 0.5) * (shown_second - 0.5) < 0
    surest_of_both = min(max(q, 1 - q) for q in (shown_first, shown_second))
    if opposed and surest_of_both >= settings.contradiction_beyond:
        return Decision(p, "contradiction")
    return Decision(p, "tie" if max(p, 1 - p) < settings.tie_below else "preferred")


def pool(ps: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of probabilities, each counted by its weight and by how decided it is: c = |2p - 1|."""
    counts = [weight * abs(2 * p - 1) for p, weight in zip(ps, weights, strict=True)]
    total = sum(counts)
    return sum(count * p for p, count in zip(ps, counts, strict=True)) / total if total else 0.5


def label_probabilities(choice: Choice, labels: int) -> tuple[float, ...] | None:
    """Each label's share of the probability, or None when the model did not give one for every label."""
    values = choice.logprobs
    broken = len(values) != labels or any(isnan(value) or value == inf for value in values) or max(values) == -inf
    return None if broken else choice.probabilities


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


def _contest(pair: CandidatePair, usable: Constitution, settings: JudgeSettings, seed: int) -> _Contest:
    # By hash and not by alphabet: at exactly even odds the left one is called chosen, and that must favour no wording.
    left, right = (_Side(text, without_reasoning(text)) for text in sorted((pair.first, pair.second), key=content_id))
    drawn = settings.principles == "drawn"
    principles = (draw_principle(usable, seed, pair.id, 0),) if drawn else usable.principles
    return _Contest(pair, left, right, principles)


def _refusal(contest: _Contest) -> Reject | None:
    pair, left, right = contest.pair, contest.left, contest.right
    if left.says_nothing and right.says_nothing:
        return Reject(pair.id, "prefer", "trivial answers", "neither answer holds a letter or a digit")
    if folded(left.shown) == folded(right.shown):
        return Reject(pair.id, "prefer", "identical answers", "there is nothing to choose between")
    return None


def _by_walkover(contest: _Contest, lineage: Lineage) -> Preference:
    """Certain, without verdicts and without a judge in the lineage, because none was asked."""
    pair, left, right = contest.pair, contest.left, contest.right
    chosen, rejected = (right, left) if left.says_nothing else (left, right)
    return Preference(pair.prompt, chosen.text, rejected.text, 1.0, (), "preferred", lineage, pair.origin)


def _requests(contest: _Contest, examples: Asked, style: Style, seed: int) -> Iterator[ChoiceRequest]:
    """For each principle the question with the left answer first, then with the right answer first."""
    prompt, left, right = contest.pair.prompt, contest.left.shown, contest.right.shown
    for principle in contest.principles:
        fence = derive("judge", seed, contest.pair.id, principle.id)
        for answers in ((left, right), (right, left)):
            yield ask_judge(style, examples, prompt, answers, principle.preference, fence)


def _verdicts(
    contest: _Contest, choices: Sequence[Choice | Failed], labels: Sequence[str]
) -> tuple[Verdict, ...] | Reject:
    """Each principle's verdict on the left answer."""
    failed = [choice for choice in choices if isinstance(choice, Failed)]
    if failed:
        detail = f"{len(failed)} of {len(choices)} judgements: {failed[0].detail}"
        return Reject(contest.pair.id, "prefer", failed[0].reason, detail)
    told = [choice for choice in choices if isinstance(choice, Choice)]
    verdicts = []
    for principle, left_first, right_first in zip(contest.principles, told[::2], told[1::2], strict=True):
        shown_first = label_probabilities(left_first, len(labels))
        shown_second = label_probabilities(right_first, len(labels))
        if shown_first is None or shown_second is None:
            values = f"log-probabilities of {labels}: {left_first.logprobs} and, swapped, {right_first.logprobs}"
            return Reject(contest.pair.id, "prefer", "broken judgement", f"principle {principle.id!r}, {values}")
        verdicts.append(Verdict(principle.id, shown_first[0], shown_second[1]))
    return tuple(verdicts)


def _ways(choices: Sequence[Choice | Failed]) -> str:
    return ", ".join(sorted({choice.way for choice in choices if isinstance(choice, Choice)}))


def _preference(
    contest: _Contest, on_left: tuple[Verdict, ...], settings: JudgeSettings, lineage: Lineage
) -> Preference:
    decision = decide(on_left, [principle.weight for principle in contest.principles], settings)
    pair, left, right = contest.pair, contest.left.text, contest.right.text
    if decision.p >= 0.5:
        return Preference(pair.prompt, left, right, decision.p, on_left, decision.kind, lineage, pair.origin)
    on_right = tuple(_about_the_other(verdict) for verdict in on_left)
    return Preference(pair.prompt, right, left, 1 - decision.p, on_right, decision.kind, lineage, pair.origin)


def _about_the_other(verdict: Verdict) -> Verdict:
    """The same judgement told of the other answer, which stood first where this one stood second."""
    return Verdict(verdict.principle_id, 1 - verdict.p_first_swapped, 1 - verdict.p_first)
