"""What a status means, how long to wait, and how long not."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.models.remote.faults import FIRST_WAIT, LONGEST_WAIT, fault_of_status, seconds_to_wait, wait_before

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (401, "", "stop", "key refused"),
        (403, "", "stop", "key refused"),
        (402, "", "stop", "no credit"),
        (429, '{"error": {"message": "slow", "code": "rate_limit"}}', "again", "rate limited"),
        (429, '{"error": {"message": "pay", "code": "insufficient_quota"}}', "stop", "no credit"),
        (302, "", "setup", "redirected"),
        (404, "<html>", "setup", "not found"),
        (500, "oops", "again", "server error"),
        (503, "", "again", "server error"),
        (408, "", "again", "server error"),
        (400, '{"error": "This model\'s maximum context length is 10"}', "row", "too long"),
        (400, '{"detail": "no such field"}', "row", "request refused"),
        (422, "[]", "row", "request refused"),
    ],
)
def test_each_status_has_its_meaning(status: int, body: str, kind: str, reason: str) -> None:
    fault = fault_of_status(status, body, None, NOW)
    assert (fault.kind, fault.reason) == (kind, reason)
    assert f"HTTP {status}" in fault.detail
    assert fault.remedy or kind in ("again", "row")
    assert fault.busy == (kind == "again" and status in (429, 503))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Fri, 01 May 2026 12:00:10 -0000", 10.0),
        (None, None),
        ("", None),
        ("-3", None),
        ("soon", None),
        ("1e9", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@given(st.text())
def test_retry_after_never_fails_and_is_never_negative(header: str) -> None:
    wait = seconds_to_wait(header, NOW)
    assert wait is None or wait >= 0


@given(st.integers(-(10**8), 10**8))
def test_a_date_says_the_same_as_the_seconds_until_then(seconds: int) -> None:
    date = NOW + timedelta(seconds=seconds)
    assert seconds_to_wait(format_datetime(date, usegmt=True), NOW) == max(0, seconds)


@given(st.text(), st.integers(-10, 700), st.text())
def test_any_error_body_makes_a_short_detail(body: str, status: int, header: str) -> None:
    fault = fault_of_status(status, body, header, NOW)
    assert len(fault.detail) < 240
    assert "\n" not in fault.detail


@given(st.text(max_size=8), st.integers(1, 20))
def test_waits_are_drawn_from_the_request_and_bounded(key: str, attempt: int) -> None:
    wait = wait_before(attempt, key)
    assert 0 <= wait < LONGEST_WAIT
    assert wait == wait_before(attempt, key)
    assert wait_before(1, key) < FIRST_WAIT
