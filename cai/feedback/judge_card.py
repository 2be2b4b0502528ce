"""How far a judge can be trusted: its verdicts on pairs of which the better answer is known, as one card.

Every figure stands beside what a rule without judgement gets. Where the pairs come from, and what the card looks like,
is not decided here; how a pair is judged is `judge`'s business.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import isnan

from cai.constitution.model import Constitution
from cai.feedback.judge import JudgeSettings, judge, pool
from cai.feedback.outcome import Outcome, first_of_each
from cai.feedback.pairs import CandidatePair
from cai.models.protocol import Model
from cai.records import Preference, PreferenceKind, Prompt, Verdict
from cai.seeds import derive, uniform
from cai.statistics import (
    ReliabilityBin,
    auroc,
    brier,
    cohen_kappa,
    expected_calibration_error,
    fit_temperature,
    reliability,
    share_interval,
    spearman,
    tempered,
)

STAGE = "judge"
BINS = 15
LEAST_FOR_TEMPERATURE = 50
"""Pairs in each half, below which a temperature would be fitted to noise."""


@dataclass(frozen=True, slots=True)
class Known:
    """Two answers of which one is known to be better."""

    prompt: Prompt
    better: str
    worse: str
    subset: str = ""
    principles: tuple[str, ...] = ()
    """Which principles the label is about; all, where nobody says."""
    better_by: str = ""
    """Who wrote the answer, where that is known."""
    worse_by: str = ""
    people: tuple[bool, ...] = ()
    """What each of several people said: whether this answer is the better one."""

    @property
    def candidates(self) -> CandidatePair:
        return CandidatePair(self.prompt, self.better, self.worse, f"labelled:{self.subset}")

    @property
    def id(self) -> str:
        return self.candidates.id


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged pair. Each probability is that of the answer which is known to be better; at exactly a half the judge
    names neither, and that is not right."""

    id: str
    subset: str
    p: float
    p_first: float
    """When it was shown first."""
    p_second: float
    kind: PreferenceKind
    longer_by: int
    """Characters that the better answer is longer by."""
    verdicts: tuple[Verdict, ...] = ()
    better_by: str = ""
    worse_by: str = ""
    people: tuple[bool, ...] = ()

    @property
    def consistent(self) -> bool:
        return (self.p_first - 0.5) * (self.p_second - 0.5) > 0

    @property
    def positions(self) -> list[bool]:
        """Of each order that names an answer, whether it names what stood first."""
        orders = ((self.p_first, self.p_first > 0.5), (self.p_second, self.p_second < 0.5))
        return [first for p, first in orders if p != 0.5]

    @property
    def better_is_left(self) -> bool:
        """A side that hangs on the content alone, so that 'the left one is better' is true half of the time."""
        return uniform(derive("side", self.id), 0) < 0.5

    @property
    def names_left(self) -> bool | None:
        """None where it names neither, which agrees with nobody."""
        return None if self.p == 0.5 else (self.p > 0.5) == self.better_is_left


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its interval, and of how many."""

    share: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Part:
    """A subset of the pairs, or what one principle alone said of all."""

    name: str
    accuracy: Share
    longer_wins: float
    consistency: Share
    first_position: Share
    """All verdicts that favour what stands first, of those that favour one; 0.5 is fair."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature fitted on one half of the pairs, and what it does to the other half."""

    temperature: float
    n: int
    raw: "Scores"
    tempered: "Scores"


@dataclass(frozen=True, slots=True)
class Scores:
    """How good probabilities are."""

    error: float
    """The mean gap between how sure the judge is and how often it is right, over bins of equal mass."""
    brier: float
    auroc: float


@dataclass(frozen=True, slots=True)
class OwnAnswers:
    """Pairs of which the judge wrote one answer: how often it prefers its own, and how often that is the better."""

    n: int
    preferred: float
    better: float

    @property
    def gap(self) -> float:
        return self.preferred - self.better


@dataclass(frozen=True, slots=True)
class JudgeCard:
    pairs: int
    judged: int
    rejects: Mapping[str, int]
    accuracy: Share
    longer_wins: float
    """What the rule 'the longer answer is better' gets."""
    shown_first: float
    shown_second: float
    both_orders: Share
    """Right in either order."""
    consistency: Share
    """The same answer named in both orders."""
    first_position: Share
    """All verdicts that favour what stands first, of those that favour one; 0.5 is fair."""
    ties: float
    contradictions: float
    unjudged: float
    """Share of pairs that came to no judgement."""
    kappa: float
    kappa_people: float | None
    """Agreement of the people among themselves, where several said what they think."""
    calibration_error: float
    brier: float
    auroc: float
    length_correlation: float
    """Spearman's, of a longer answer with a higher probability."""
    own: OwnAnswers | None
    calibration: Calibration | None
    reliability: tuple[ReliabilityBin, ...]
    subsets: tuple[Part, ...]
    principles: tuple[Part, ...]


def measure(
    pairs: Sequence[Known], constitution: Constitution, judge_model: Model, settings: JudgeSettings, seed: int
) -> Outcome[Judged]:
    """Every pair judged as a run would judge it, by the principles that its label is about."""
    outcome: Outcome[Judged] = Outcome()
    known = {pair.id: pair for pair in first_of_each(pairs, STAGE, outcome.rejects)}
    for names in dict.fromkeys(pair.principles for pair in known.values()):
        own = [pair for pair in known.values() if pair.principles == names]
        by = replace(constitution, principles=tuple(p for p in constitution.principles if not names or p.id in names))
        judged = judge([pair.candidates for pair in own], by, judge_model, settings, seed)
        outcome.notes.update(judged.notes)
        outcome.rejects.extend(replace(reject, stage=STAGE) for reject in judged.rejects)
        for preference in judged.records:
            pair_id = CandidatePair(preference.prompt, preference.chosen, preference.rejected, "").id
            outcome.records.append(_about_the_better(known[pair_id], preference, by, settings))
    return outcome


def _about_the_better(
    known: Known, preference: Preference, constitution: Constitution, settings: JudgeSettings
) -> Judged:
    right = preference.chosen == known.better
    verdicts = preference.verdicts if right else tuple(verdict.turned() for verdict in preference.verdicts)
    weights = [
        constitution.principle(verdict.principle_id).weight if settings.principles == "all" else 1.0
        for verdict in verdicts
    ]
    p = first = second = preference.p_chosen if right else 1 - preference.p_chosen
    if verdicts:
        # Pooled anew: what a judge that reasons believes, before its label is kept within bounds.
        p = tempered(pool([verdict.p for verdict in verdicts], weights), settings.temperature)
        first = tempered(pool([verdict.p_first for verdict in verdicts], weights), settings.temperature)
        second = tempered(pool([verdict.p_first_swapped for verdict in verdicts], weights), settings.temperature)
    gap = len(known.better) - len(known.worse)
    told = (known.better_by, known.worse_by, known.people)
    return Judged(known.id, known.subset, p, first, second, preference.kind, gap, verdicts, *told)


def judge_card(judged: Sequence[Judged], rejects: Mapping[str, int], names: Collection[str] = ()) -> JudgeCard:
    """The card of these judgements; at least one is needed. By `names` the judge knows its own answers."""
    assert judged, "a card needs at least one judged pair"
    n, lost = len(judged), sum(rejects.values())
    p_better = [row.p for row in judged]
    scores = _scores(p_better)
    kinds = Counter(row.kind for row in judged)
    whole = _part("", judged)
    return JudgeCard(
        pairs=n + lost,
        judged=n,
        rejects=dict(sorted(rejects.items())),
        accuracy=whole.accuracy,
        longer_wins=whole.longer_wins,
        shown_first=_mean([row.p_first > 0.5 for row in judged]),
        shown_second=_mean([row.p_second > 0.5 for row in judged]),
        both_orders=_share([row.p_first > 0.5 and row.p_second > 0.5 for row in judged]),
        consistency=whole.consistency,
        first_position=whole.first_position,
        ties=kinds["tie"] / n,
        contradictions=kinds["contradiction"] / n,
        unjudged=lost / (n + lost),
        kappa=cohen_kappa([row.names_left for row in judged], [row.better_is_left for row in judged]),
        kappa_people=_kappa_people(judged),
        calibration_error=scores.error,
        brier=scores.brier,
        auroc=scores.auroc,
        length_correlation=spearman([row.longer_by for row in judged], [row.p for row in judged]),
        own=_own(judged, names),
        calibration=calibrate(judged),
        reliability=tuple(reliability(*_confidences(p_better), BINS, equal_mass=True)),
        subsets=_subsets(judged),
        principles=_principles(judged),
    )


def calibrate(judged: Sequence[Judged]) -> Calibration | None:
    """One half decides the temperature, the other shows what it is worth; halves by content, not by order."""
    fitted_on = [row for row in judged if uniform(derive("half", row.id), 0) < 0.5]
    shown_on = [row for row in judged if uniform(derive("half", row.id), 0) >= 0.5]
    if min(len(fitted_on), len(shown_on)) < LEAST_FOR_TEMPERATURE:
        return None
    temperature = fit_temperature([row.p for row in fitted_on], [True] * len(fitted_on))
    raw = _scores([row.p for row in shown_on])
    after = _scores([tempered(row.p, temperature) for row in shown_on])
    return Calibration(temperature, len(shown_on), raw, after)


def shortfalls(card: JudgeCard, require: Mapping[str, float]) -> list[str]:
    """What a card lacks of what is required, each in words. The names are those of `MEASURES`."""
    told = []
    for name, bound in require.items():
        value, interval = MEASURES[name](card)
        at_most = name in AT_MOST
        if isnan(value) or (value > bound if at_most else value < bound):
            span = f" ({interval.low:.3f} to {interval.high:.3f})" if interval else ""
            told.append(f"{name} is {value:.3f}{span}, and at {'most' if at_most else 'least'} {bound:g} is required")
    return told


AT_MOST = ("calibration_error", "unjudged")
MEASURES: dict[str, Callable[[JudgeCard], tuple[float, Share | None]]] = {
    "accuracy": lambda card: (card.accuracy.share, card.accuracy),
    "consistency": lambda card: (card.consistency.share, card.consistency),
    "both_orders": lambda card: (card.both_orders.share, card.both_orders),
    "kappa": lambda card: (card.kappa, None),
    "auroc": lambda card: (card.auroc, None),
    "above_length": lambda card: (card.accuracy.share - card.longer_wins, None),
    "calibration_error": lambda card: (card.calibration_error, None),
    "unjudged": lambda card: (card.unjudged, None),
}
"""What a gate may require, and how it is read from a card."""


def _scores(p_better: Sequence[float]) -> Scores:
    """Of either answer's probability: each pair is told twice, so that it does not matter who is called the first."""
    both, truth = [*p_better, *(1 - p for p in p_better)], [*([True] * len(p_better)), *([False] * len(p_better))]
    error = expected_calibration_error(*_confidences(p_better), BINS, equal_mass=True)
    return Scores(error, brier(both, truth), auroc(both, truth))


def _confidences(p_better: Sequence[float]) -> tuple[list[float], list[float]]:
    """How sure the judge is of the answer that it names, and whether that is the better one; a half for neither."""
    sure = [max(p, 1 - p) for p in p_better]
    return sure, [0.5 if p == 0.5 else float(p > 0.5) for p in p_better]


def _part(name: str, judged: Sequence[Judged]) -> Part:
    return Part(
        name,
        _share([row.p > 0.5 for row in judged]),
        _mean([0.5 if row.longer_by == 0 else float(row.longer_by > 0) for row in judged]),
        _share([row.consistent for row in judged]),
        _share([first for row in judged for first in row.positions]),
    )


def _subsets(judged: Sequence[Judged]) -> tuple[Part, ...]:
    """Told apart only where there is more than one."""
    names = sorted({row.subset for row in judged})
    return tuple(_part(name, [row for row in judged if row.subset == name]) for name in names if len(names) > 1)


def _principles(judged: Sequence[Judged]) -> tuple[Part, ...]:
    """What each principle would have made of the pairs that it was asked about, alone."""
    alone: dict[str, list[Judged]] = {}
    for row in judged:
        for verdict in row.verdicts:
            told = replace(row, p=verdict.p, p_first=verdict.p_first, p_second=verdict.p_first_swapped)
            alone.setdefault(verdict.principle_id, []).append(told)
    return tuple(_part(name, alone[name]) for name in sorted(alone))


def _own(judged: Sequence[Judged], names: Collection[str]) -> OwnAnswers | None:
    one_is_own = [row for row in judged if (row.better_by in names) != (row.worse_by in names)]
    if not one_is_own:
        return None
    better = [row.better_by in names for row in one_is_own]
    preferred = [0.5 if row.p == 0.5 else (row.p > 0.5) == own for row, own in zip(one_is_own, better, strict=True)]
    return OwnAnswers(len(one_is_own), _mean(preferred), _mean(better))


def _kappa_people(judged: Sequence[Judged]) -> float | None:
    """Every two people on the same pair, both ways round, so that it does not matter who came first."""
    ones: list[bool] = []
    others: list[bool] = []
    for row in judged:
        for one, other in permutations(row.people, 2):
            ones.append(one == row.better_is_left)
            others.append(other == row.better_is_left)
    return cohen_kappa(ones, others) if ones else None


def _share(flags: Sequence[bool]) -> Share:
    """Of nothing a half, which can be anything."""
    interval = share_interval(sum(flags), len(flags))
    return Share(_mean(flags) if flags else 0.5, interval.low, interval.high, len(flags))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
