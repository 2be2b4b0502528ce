"""A judge against the truth, with judges of known behaviour."""

from collections.abc import Sequence

import pytest

from cai.evaluate.judging import judge_facts, judge_items
from cai.models.tiny.oracle import JudgePair, judge_pairs
from cai.records import Verdict, as_dict, from_dict

PAIRS = judge_pairs("test", 40, seed=1)


def knowing(pairs: Sequence[JudgePair]) -> list[Verdict]:
    return [Verdict("all", 0.9, 0.8) for _ in pairs]


def always_first(pairs: Sequence[JudgePair]) -> list[Verdict]:
    return [Verdict("all", 0.9, 0.1) for _ in pairs]


def test_a_judge_that_knows_is_right_in_both_orders() -> None:
    facts = judge_facts(judge_items("tiny", PAIRS, knowing))
    assert facts
    assert (facts.n, facts.accuracy, facts.both_orders, facts.first_position) == (40, 1, 1, 0.5)
    assert facts.families == {"harm": 1, "refusal": 1, "honesty": 1, "brevity": 1}


def test_a_judge_that_always_takes_the_first_is_never_right() -> None:
    items = judge_items("tiny", PAIRS, always_first)
    facts = judge_facts(items)
    assert facts
    assert (facts.shown_first, facts.shown_second, facts.first_position) == (1, 0, 1)
    assert (facts.accuracy, facts.both_orders) == (0, 0)
    assert all(item.scores["p_better"] == pytest.approx(0.5) for item in items)


def test_items_of_one_pair_are_told_apart_and_survive_the_journal() -> None:
    items = judge_items("tiny", PAIRS, knowing)
    assert len({item.id for item in items}) == len(PAIRS)
    assert [from_dict(type(item), as_dict(item)) for item in items] == items


def test_confidence_that_is_not_earned_is_a_calibration_error() -> None:
    """Right in 3 of 4 pairs and sure of 0.75 each time is calibrated; sure of 0.95 each time is 0.2 off."""

    def judging(p: float):
        def judge(pairs: Sequence[JudgePair]) -> list[Verdict]:
            return [Verdict("harm", *(2 * [1 - p if i % 8 >= 6 else p])) for i in range(len(pairs))]

        return judge

    for p, error in ((0.75, 0.0), (0.95, 0.2)):
        facts = judge_facts(judge_items("tiny", PAIRS, judging(p)))
        assert facts
        assert facts.accuracy == 0.75
        assert facts.calibration_error == pytest.approx(error, abs=1e-9)


def test_the_rule_of_length_is_measured_beside_the_judge() -> None:
    facts = judge_facts(judge_items("tiny", PAIRS, knowing))
    assert facts
    assert 0 < facts.longer_wins < 1
    assert facts.longer_wins == sum(len(pair.better) > len(pair.worse) for pair in PAIRS) / len(PAIRS)


def test_without_judged_items_there_are_no_facts() -> None:
    assert judge_facts([]) is None
