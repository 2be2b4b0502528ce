"""Rows that compare models: values, paired intervals, and what they amount to."""

import pytest

from cai.errors import InputError
from cai.evaluate.compare import MetricRow, compare
from cai.evaluate.suites import JUDGED, Item, SuiteResult

GOOD = {"served": True, "refused": False, "well_formed": True, "correct": True, "honest": True, "brief": True}


def answers(label: str, *served: bool) -> SuiteResult:
    """Items of one class that are served or refused, as told."""
    flags = [{**GOOD, "served": each, "refused": not each} for each in served]
    return SuiteResult("tiny", tuple(Item(f"{label}{i}", "tiny", label, "?", "!", f) for i, f in enumerate(flags)))


def row(rows: list[MetricRow], name: str) -> MetricRow:
    return next(row for row in rows if row.metric == name)


def test_a_row_holds_values_difference_and_intervals() -> None:
    base, sft, tuned = [True] * 20, [True] * 10 + [False] * 10, [False] * 19 + [True]
    rows = compare(
        {"base": answers("harmful", *base), "sft": answers("harmful", *sft), "tuned": answers("harmful", *tuned)}
    )
    found = row(rows, "harmful_compliance")
    assert found.values == {"base": 1.0, "sft": 0.5, "tuned": 0.05}
    assert (found.base, found.tuned, found.difference, found.n, found.better) == (1.0, 0.05, -0.95, 20, "lower")
    assert found.interval is not None
    assert found.interval[0] <= -0.95 <= found.interval[1] < 0
    # Wilson's interval for 20 of 20: (20 + z²/2) / (20 + z²) ∓ ... ends at 1 and starts at 20 / (20 + 3.8415).
    assert found.intervals["base"] == pytest.approx((20 / 23.8415, 1.0), abs=1e-5)
    assert found.change == "better"


def test_the_difference_is_paired() -> None:
    """Base and tuned each pass one half, but never the same one: pairing must see that all items moved."""
    half = [True] * 50 + [False] * 50
    same = compare({"base": answers("harmful", *half), "tuned": answers("harmful", *half)})
    swapped = compare({"base": answers("harmful", *half), "tuned": answers("harmful", *half[::-1])})
    assert row(same, "harmful_compliance").interval == (0.0, 0.0)
    low, high = row(swapped, "harmful_compliance").interval or (0.0, 0.0)
    assert low < -0.1
    assert high > 0.1


def test_a_change_within_its_interval_is_no_change() -> None:
    base, tuned = [True] * 50, [True] * 49 + [False]
    assert (
        row(compare({"base": answers("benign", *base), "tuned": answers("benign", *tuned)}), "helpfulness").change
        == "same"
    )


def test_losing_helpfulness_is_worse_and_refusing_more_is_worse() -> None:
    rows = compare({"base": answers("benign", *[True] * 40), "tuned": answers("benign", *[False] * 40)})
    assert row(rows, "helpfulness").change == "worse"
    assert row(rows, "over_refusal").change == "worse"


def test_what_was_not_measured_has_no_row() -> None:
    rows = compare({"base": answers("benign", True), "tuned": answers("benign", True)})
    assert {row.metric for row in rows} == {"helpfulness", "over_refusal", "well_formed", "brevity"}


def test_a_metric_of_the_base_alone_has_no_difference() -> None:
    judged = Item("j", "tiny", JUDGED, "?", "harm", {"right": True})
    base = SuiteResult("tiny", (*answers("benign", True).items, judged))
    found = row(compare({"base": base, "tuned": answers("benign", True)}), "judge_accuracy")
    assert (found.values, found.base, found.tuned) == ({"base": 1.0}, 1.0, None)
    assert (found.difference, found.interval, found.n) == (None, None, 1)


def test_models_that_answered_different_prompts_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="different prompts"):
        compare({"base": answers("benign", True, True), "tuned": answers("benign", True)})


def test_a_prompt_that_one_model_lost_is_left_out_for_all() -> None:
    base, tuned = answers("harmful", *[True] * 40), answers("harmful", *[False] * 39)
    found = row(compare({"base": base, "tuned": tuned}), "harmful_compliance")
    assert (found.n, found.base, found.tuned) == (39, 1.0, 0.0)


def test_the_order_of_the_items_means_nothing() -> None:
    base, tuned = answers("harmful", *[True] * 30), answers("harmful", *[True] * 10 + [False] * 20)
    turned = SuiteResult("tiny", tuned.items[::-1])
    assert compare({"base": base, "tuned": tuned}) == compare({"base": base, "tuned": turned})


def test_equal_seeds_give_equal_rows() -> None:
    results = {"base": answers("harmful", *[True] * 9, False), "tuned": answers("harmful", *[False, True] * 5)}
    assert compare(results, seed=5) == compare(results, seed=5)
