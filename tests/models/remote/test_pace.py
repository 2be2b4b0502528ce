"""How many calls at a time, by hand: the clock is a number."""

import pytest

from cai.models.remote.pace import FAULTS_IN_A_ROW, FIRST_PAUSE, Pace


def answered(pace: Pace, times: int) -> None:
    for _ in range(times):
        pace.begin()
        pace.answered()


def failed(pace: Pace, now: float, times: int = 1, busy: bool = False) -> None:
    for _ in range(times):
        pace.begin()
        pace.failed(now, now, busy)


def test_answers_raise_the_limit_by_about_one_a_round_up_to_the_most() -> None:
    pace = Pace(8, 60)
    assert pace.limit == 4
    answered(pace, 4)
    assert pace.limit == pytest.approx(4 + 1 / 4 + 1 / 4.25 + 1 / 4.485 + 1 / 4.708, abs=0.01)
    answered(pace, 1000)
    assert pace.limit == 8


def test_a_full_house_waits_for_a_call_to_end() -> None:
    pace = Pace(2, 60)
    assert pace.wait(0) == 0
    pace.begin()
    pace.begin()
    assert pace.wait(0) is None
    pace.answered()
    assert pace.wait(0) == 0


def test_busy_halves_once_for_all_calls_under_way() -> None:
    """Three calls began at 0 and are turned away at 1: one cut, 4 to 2. A call that began after it cuts again."""
    pace = Pace(8, 60)
    for _ in range(3):
        pace.begin()
    for _ in range(3):
        pace.failed(0, 1, busy=True)
    assert pace.limit == 2
    pace.begin()
    pace.failed(1.5, 2, busy=True)
    assert pace.limit == 1
    failed(pace, 3, busy=True)
    assert pace.limit == 1


def test_what_an_endpoint_asks_to_wait_holds_for_all_calls() -> None:
    pace = Pace(8, 60)
    pace.begin()
    pace.failed(0, 1, wait=5)
    assert pace.wait(1) == 5
    assert pace.wait(6) == 0


def test_an_endpoint_that_only_ever_asks_to_wait_is_broken_too() -> None:
    pace = Pace(8, 60)
    for now in range(FAULTS_IN_A_ROW):
        pace.begin()
        pace.failed(now, now, busy=True, wait=1)
    assert pace.broken


def test_faults_in_a_row_pause_longer_and_longer_and_then_try_one_call() -> None:
    pace = Pace(64, 60)
    failed(pace, 0, FAULTS_IN_A_ROW - 1)
    assert not pace.broken
    failed(pace, 0)
    assert pace.broken
    assert pace.wait(0) == FIRST_PAUSE
    now = FIRST_PAUSE
    assert pace.wait(now) == 0
    pace.begin()
    assert pace.wait(now) is None, "one trial at a time"
    pace.failed(now, now)
    assert pace.wait(now) == 2 * FIRST_PAUSE


def test_calls_that_were_under_way_when_it_broke_do_not_lengthen_the_pause() -> None:
    pace = Pace(64, 60)
    for _ in range(30):
        pace.begin()
    for _ in range(30):
        pace.failed(0, 1)
    assert pace.wait(1) == FIRST_PAUSE


def test_one_answer_mends_it() -> None:
    pace = Pace(8, 60)
    failed(pace, 0, FAULTS_IN_A_ROW)
    answered(pace, 1)
    assert not pace.broken
    assert pace.wait(10) == 0
    assert pace.faults == 0


def test_a_refusal_is_a_sign_of_life_and_not_an_answer() -> None:
    pace = Pace(8, 60)
    failed(pace, 0, FAULTS_IN_A_ROW)
    pace.begin()
    pace.refused()
    assert not pace.broken
    assert not pace.ever_answered


def test_it_is_dead_when_patience_is_over_and_not_before() -> None:
    pace = Pace(8, 5)
    failed(pace, 1, FAULTS_IN_A_ROW)
    assert not pace.dead(5.9)
    assert pace.dead(6.0)
    answered(pace, 1)
    assert not pace.dead(100)
