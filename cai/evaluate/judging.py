"""How good a judge the model is: its verdicts on pairs of which the truth is known, as items and as a summary.

The verdicts come from whoever judges: what a judge is asked and how principles are pooled lives in `feedback.judge`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cai.evaluate.suites import JUDGED, Item
from cai.models.tiny.oracle import JudgePair
from cai.records import Verdict, content_id
from cai.statistics import Interval, brier, expected_calibration_error, share_interval

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
    right = [item.flags["right"] for item in judged]
    first, second = ([item.flags[name] for item in judged] for name in ("right_first", "right_second"))
    p_better = [item.scores["p_better"] for item in judged]
    # The truth of "this one is better" alternates, since a calibration of certain truths would only measure sharpness.
    turned = [p if i % 2 else 1 - p for i, p in enumerate(p_better)]
    truth = [i % 2 == 1 for i in range(len(judged))]
    families = sorted({item.reply for item in judged})
    return JudgeFacts(
        n=len(judged),
        accuracy=_share(right),
        interval=share_interval(sum(right), len(right)),
        shown_first=_share(first),
        shown_second=_share(second),
        both_orders=_share([a and b for a, b in zip(first, second, strict=True)]),
        first_position=(_share(first) + 1 - _share(second)) / 2,
        longer_wins=_share([item.flags["longer"] for item in judged]),
        calibration_error=expected_calibration_error(turned, truth),
        brier=brier(turned, truth),
        families={name: _share([i.flags["right"] for i in judged if i.reply == name]) for name in families},
    )


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


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
