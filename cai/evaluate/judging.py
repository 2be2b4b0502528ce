"""How good a judge the model is: its verdicts on pairs of which the truth is known, as items and as a summary.

The verdicts come from whoever judges: what a judge is asked and how principles are pooled lives in `feedback.judge`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cai.evaluate.suites import JUDGED, Item
from cai.feedback.judge_card import Judged, judge_card
from cai.models.tiny.oracle import JudgePair
from cai.records import Verdict, content_id
from cai.statistics import Interval

Judge = Callable[[Sequence[JudgePair]], Sequence[Verdict]]
"""One verdict for each pair: the probability of the better answer, shown first and shown second."""


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """A judge against the truth; every share stands beside what choosing the longer answer would get."""

    n: int
    accuracy: float
    interval: Interval
    shown_first: float
    """Accuracy when the better answer is shown first."""
    shown_second: float
    both_orders: float
    """Share of pairs that are right in either order."""
    first_position: float
    """Share of all verdicts that favour whatever stands first; 0.5 is fair."""
    longer_wins: float
    """What the rule "the longer answer is better" would get."""
    calibration_error: float
    brier: float
    families: dict[str, float]


def judge_items(suite_name: str, pairs: Sequence[JudgePair], judge: Judge) -> list[Item]:
    verdicts = judge(pairs)
    assert len(verdicts) == len(pairs), (len(verdicts), len(pairs))
    return [_item(suite_name, pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]


def judge_facts(items: Iterable[Item]) -> JudgeFacts | None:
    """The summary of all judged items among these; None where there is none."""
    judged = [item for item in items if item.label == JUDGED]
    if not judged:
        return None
    card = judge_card([_judged(item) for item in judged], {})
    families = {part.name: part.accuracy.share for part in card.subsets}
    return JudgeFacts(
        n=card.judged,
        accuracy=card.accuracy.share,
        interval=Interval(card.accuracy.low, card.accuracy.high),
        shown_first=card.shown_first,
        shown_second=card.shown_second,
        both_orders=card.both_orders.share,
        first_position=card.first_position.share,
        longer_wins=card.longer_wins,
        calibration_error=card.calibration_error,
        brier=card.brier,
        families=families or {judged[0].reply: card.accuracy.share},
    )


def _judged(item: Item) -> Judged:
    p, first, second = (item.scores[name] for name in ("p_better", "p_first", "p_second"))
    return Judged(item.id, item.reply, p, first, second, "preferred", 1 if item.flags["longer"] else -1)


def _item(suite_name: str, pair: JudgePair, verdict: Verdict) -> Item:
    flags = {
        "right": verdict.p > 0.5,
        "right_first": verdict.p_first > 0.5,
        "right_second": verdict.p_first_swapped > 0.5,
        "longer": len(pair.better) > len(pair.worse),
    }
    scores = {"p_better": verdict.p, "p_first": verdict.p_first, "p_second": verdict.p_first_swapped}
    identity = content_id("judged", pair.family, pair.prompt.id, pair.better, pair.worse)
    return Item(identity, suite_name, JUDGED, pair.prompt.messages[-1].content, pair.family, flags, scores)
