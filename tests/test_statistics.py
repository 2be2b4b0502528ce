"""Intervals, agreement and calibration against numbers worked out by hand, and what must hold for any data."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.statistics import (
    Interval,
    brier,
    cohen_kappa,
    difference_interval,
    expected_calibration_error,
    mean_interval,
    share_interval,
)


def test_wilson_at_half_of_ten_by_hand() -> None:
    """z² = 3.8415: centre (.5 + .19207) / 1.38415 = .5; half 1.96 / 1.38415 · √(.025 + .0096037) = .26340."""
    interval = share_interval(5, 10)
    assert interval.low == pytest.approx(0.23659, abs=1e-5)
    assert interval.high == pytest.approx(0.76341, abs=1e-5)


def test_no_success_in_200_still_leaves_room_above() -> None:
    """At 0 of n Wilson's upper end is z² / (n + z²) = 3.8415 / 203.8415."""
    interval = share_interval(0, 200)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(3.8414588 / 203.8414588, abs=1e-9)


def test_without_data_everything_is_possible() -> None:
    assert share_interval(0, 0) == Interval(0.0, 1.0)


@given(n=st.integers(1, 500), data=st.data())
def test_a_share_lies_in_its_interval_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    interval, mirrored = share_interval(k, n), share_interval(n - k, n)
    assert 0.0 <= interval.low <= k / n <= interval.high <= 1.0
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_a_mean_interval_comes_near_the_normal_one() -> None:
    """400 values of ±1, half each: standard error 1 / √400 = .05, so about ±.098."""
    interval = mean_interval([1.0, -1.0] * 200)
    assert interval.low == pytest.approx(-0.098, abs=0.02)
    assert interval.high == pytest.approx(0.098, abs=0.02)


def test_equal_values_leave_no_doubt() -> None:
    assert mean_interval([0.25] * 30) == Interval(0.25, 0.25)


def test_an_interval_depends_on_its_seed_alone() -> None:
    values = [0.1, 0.9, 0.4, 0.7, 0.2]
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5, resamples=50) != mean_interval(values, seed=6, resamples=50)


def test_pairing_removes_what_both_share() -> None:
    base = [0.0, 10.0, 20.0, 30.0, 40.0]
    assert difference_interval(base, [value + 1 for value in base]) == Interval(1.0, 1.0)


def test_a_difference_changes_sign_with_its_sides() -> None:
    base, tuned = [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]
    there, back = difference_interval(base, tuned), difference_interval(tuned, base)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low == 0.0
    assert there.high > 0.25


def test_kappa_by_hand() -> None:
    """Agreement 7/10. By chance: yes .6 · .5 + no .4 · .5 = .5. So (.7 - .5) / .5 = .4."""
    a = ["yes"] * 6 + ["no"] * 4
    b = ["yes"] * 4 + ["no"] * 2 + ["yes"] + ["no"] * 3
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert cohen_kappa(b, a) == pytest.approx(0.4)


def test_kappa_is_1_in_agreement_and_below_0_in_opposition() -> None:
    assert cohen_kappa([1, 0, 1, 0], [1, 0, 1, 0]) == 1.0
    assert cohen_kappa([1, 0, 1, 0], [0, 1, 0, 1]) == -1.0


def test_kappa_of_one_label_only_is_not_a_number() -> None:
    assert math.isnan(cohen_kappa(["A", "A"], ["A", "A"]))


def test_calibration_error_by_hand() -> None:
    """Bin .9–1: two at .95, one right, gap |1.9 - 1| = .9. Bin .1–.2: two at .1, none, gap .2. Together 1.1 / 4."""
    assert expected_calibration_error([0.95, 0.95, 0.1, 0.1], [1, 0, 0, 0]) == pytest.approx(1.1 / 4)


def test_certainty_that_is_right_is_calibrated() -> None:
    assert expected_calibration_error([1.0, 0.0, 1.0], [1, 0, 1]) == 0.0


def test_brier_by_hand() -> None:
    """(.1² + .6² + 0²) / 3 = .37 / 3."""
    assert brier([0.9, 0.6, 1.0], [1, 0, 1]) == pytest.approx(0.37 / 3)


def test_unequal_lengths_are_our_own_mistake() -> None:
    for measure in (brier, expected_calibration_error, cohen_kappa, difference_interval):
        with pytest.raises(AssertionError):
            measure([0.5, 0.5], [1])
