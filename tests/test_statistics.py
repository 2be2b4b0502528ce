"""Intervals, agreement and calibration against numbers worked out by hand, and what must hold for any data."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.seeds import derive, uniform
from cai.statistics import (
    Interval,
    ReliabilityBin,
    auroc,
    brier,
    cohen_kappa,
    difference_interval,
    expected_calibration_error,
    fit_temperature,
    mean_interval,
    mean_ranks,
    reliability,
    share_interval,
    spearman,
    tempered,
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
    paired = (brier, expected_calibration_error, cohen_kappa, difference_interval, auroc, spearman, fit_temperature)
    for measure in (*paired, reliability):
        with pytest.raises(AssertionError):
            measure([0.5, 0.5], [1])


def test_bins_of_equal_mass_by_hand() -> None:
    """Six items in three bins of two. 0.6 and 0.7: mean 0.65, one of two right. And so on."""
    p, y = [0.9, 0.6, 0.7, 0.8, 0.95, 1.0], [1, 0, 1, 1, 1, 0.5]
    assert reliability(p, y, 3, equal_mass=True) == [
        ReliabilityBin(2, pytest.approx(0.65), 0.5),
        ReliabilityBin(2, pytest.approx(0.85), 1.0),
        ReliabilityBin(2, pytest.approx(0.975), 0.75),
    ]
    error = (2 * 0.15 + 2 * 0.15 + 2 * 0.225) / 6
    assert expected_calibration_error(p, y, 3, equal_mass=True) == pytest.approx(error)


def test_equal_confidences_are_never_parted() -> None:
    """Eight of ten say 1.0: they are one bin, whatever the number of bins."""
    found = reliability([0.5, 0.6, *[1.0] * 8], [1, 0, *[1] * 8], 5, equal_mass=True)
    assert [part.n for part in found] == [2, 8]
    assert reliability([0.7] * 9, [1] * 9, 4, equal_mass=True) == [ReliabilityBin(9, pytest.approx(0.7), 1.0)]


CONFIDENCES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(CONFIDENCES, st.integers(1, 20), st.booleans())
def test_bins_hold_every_item_once_in_rising_order(
    items: list[tuple[float, bool]], bins: int, equal_mass: bool
) -> None:
    p, y = [each for each, _ in items], [float(truth) for _, truth in items]
    found = reliability(p, y, bins, equal_mass=equal_mass)
    assert sum(part.n for part in found) == len(items)
    assert len(found) <= bins
    assert sum(part.n * part.frequency for part in found) == pytest.approx(sum(y))
    assert sum(part.n * part.confidence for part in found) == pytest.approx(sum(p))
    confidences = [part.confidence for part in found]
    assert all(one <= other + 1e-12 for one, other in pairwise(confidences))
    assert reliability(p[::-1], y[::-1], bins, equal_mass=equal_mass) == found


def test_auroc_by_hand() -> None:
    """True at 0.9, 0.4; false at 0.5, 0.4, 0.1. 0.9 beats three; 0.4 beats one and ties one: 4.5 of 6."""
    assert auroc([0.9, 0.4, 0.5, 0.4, 0.1], [1, 1, 0, 0, 0]) == pytest.approx(0.75)


def test_auroc_of_one_kind_is_not_a_number_and_of_equals_a_coin() -> None:
    assert math.isnan(auroc([0.1, 0.9], [1, 1]))
    assert math.isnan(auroc([0.1, 0.9], [0, 0]))
    assert auroc([0.3, 0.3, 0.3], [1, 0, 1]) == 0.5


@given(CONFIDENCES, st.floats(0.5, 3))
def test_no_temperature_changes_auroc(items: list[tuple[float, bool]], temperature: float) -> None:
    """On hundredths, so that no two of them become one number."""
    p, y = [round(0.01 + 0.98 * each, 2) for each, _ in items], [truth for _, truth in items]
    before, after = auroc(p, y), auroc([tempered(each, temperature) for each in p], y)
    assert after == before or (math.isnan(before) and math.isnan(after))


@given(CONFIDENCES)
def test_auroc_of_the_opposite_is_the_rest_to_1(items: list[tuple[float, bool]]) -> None:
    p, y = [each for each, _ in items], [truth for _, truth in items]
    found, opposite = auroc(p, y), auroc(p, [not truth for truth in y])
    assert math.isnan(found) == math.isnan(opposite)
    assert math.isnan(found) or found + opposite == pytest.approx(1)


def test_equal_values_share_the_mean_of_their_ranks_by_hand() -> None:
    assert mean_ranks([10, 30, 20, 30, 5, 30]) == [2, 5, 3, 5, 1, 5]
    assert mean_ranks([]) == []


def test_spearman_by_hand() -> None:
    """Ranks 1 to 4 against 2, 1, 4, 3: 1 - 6·4 / (4·15) = 0.6."""
    assert spearman([1, 2, 3, 4], [20, 10, 400, 300]) == pytest.approx(0.6)
    assert spearman([1, 2, 3], [1, 10, 100]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 2, 3], [7, 7, 7]))


def test_tempered_by_hand() -> None:
    """0.8 has odds 4; their root is 2, so 2/3; their square 16, so 16/17."""
    assert tempered(0.8, 2.0) == pytest.approx(2 / 3)
    assert tempered(0.8, 0.5) == pytest.approx(16 / 17)
    assert [tempered(p, 1.0) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_certainty_is_tempered_as_one_in_a_million_by_hand() -> None:
    """A judge that only says a word is certain each time. Odds of a million: their sixth root is 10, so 10/11; what
    lies beyond adds less than a thousandth of its log-odds."""
    assert tempered(1.0, 6.0) == pytest.approx(10 / 11, abs=0.001)
    assert tempered(0.0, 6.0) == pytest.approx(1 / 11, abs=0.001)
    assert tempered(1 - 1e-6, 6.0) < tempered(1 - 1e-12, 6.0) < tempered(1.0, 6.0), "who is surer stays surer"


def test_a_judge_that_is_always_certain_is_tempered_to_how_often_it_is_right() -> None:
    said = [1.0] * 80 + [0.0] * 20
    temperature = fit_temperature(said, [True] * 100)
    assert tempered(1.0, temperature) == pytest.approx(0.8, abs=1e-6)


@given(st.floats(0, 1), st.floats(0.05, 20))
def test_a_temperature_keeps_the_side_and_mirrors(p: float, temperature: float) -> None:
    made = tempered(p, temperature)
    assert 0 <= made <= 1
    assert (made - 0.5) * (p - 0.5) >= 0
    assert tempered(1 - p, temperature) == pytest.approx(1 - made, abs=1e-5)
    # Certainty counts as one in a million and a little more, so a temperature below 1 makes it no surer than that.
    assert abs(made - 0.5) <= abs(p - 0.5) + 1e-12 if temperature >= 1 else abs(made - 0.5) >= abs(p - 0.5) - 1e-6


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    """Truths are drawn from calibrated probabilities; what is said has their log-odds multiplied by the temperature."""
    true = [0.02 + 0.96 * uniform(derive("p", i), 0) for i in range(6000)]
    y = [uniform(derive("y", i), 0) < p for i, p in enumerate(true)]
    said = [tempered(p, 1 / temperature) for p in true]
    assert fit_temperature(said, y) == pytest.approx(temperature, rel=0.08)


def test_the_temperature_of_a_judge_that_is_always_right_or_always_wrong_ends_at_its_bounds() -> None:
    assert fit_temperature([0.8, 0.9], [1, 1]) == pytest.approx(1 / 20)
    assert fit_temperature([0.8, 0.9], [0, 0]) == pytest.approx(20)


def test_one_certain_mistake_does_not_decide_a_temperature() -> None:
    """Certainty counts as one in a million: not infinitely much."""
    found = fit_temperature([*[0.9] * 200, 1.0], [*[1] * 180, *[0] * 20, 0])
    assert 1 < found < 3
