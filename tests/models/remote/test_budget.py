"""Limits that are never passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.models.remote.budget import Budget, Tokens, most_tokens
from cai.models.remote.spec import Limits, Prices


def test_cost_by_hand() -> None:
    """2,000 tokens at 3 a million and 500 at 15 a million: 0.006 + 0.0075."""
    budget = Budget(Limits(), Prices(prompt=3, reply=15))
    assert budget.cost(Tokens(2000, 500)) == pytest.approx(0.0135)


def test_what_is_under_way_counts_until_it_is_known() -> None:
    budget = Budget(Limits(tokens=100), None, Tokens(20, 10))
    assert not budget.exceeded_by(Tokens(60, 10))
    budget.reserve(Tokens(60, 10))
    assert budget.exceeded_by(Tokens(0, 1)) == "the limit of 100 tokens is reached: 30 are used"
    budget.settle(Tokens(60, 10), Tokens(5, 5))
    assert budget.used == Tokens(25, 15)
    assert not budget.exceeded_by(Tokens(60, 0))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1), st.booleans()), max_size=30))
def test_a_limit_is_never_passed_whatever_comes_in_which_order(calls: list[tuple[int, int, float, bool]]) -> None:
    budget = Budget(Limits(tokens=200, cost=0.001), Prices(prompt=3, reply=9))
    under_way: list[tuple[Tokens, float]] = []
    for prompt, reply, share, ends in calls:
        most = Tokens(prompt, reply)
        if not budget.exceeded_by(most):
            budget.reserve(most)
            under_way.append((most, share))
        if ends and under_way:
            reserved, part = under_way.pop(0)
            budget.settle(reserved, Tokens(int(reserved.prompt * part), int(reserved.reply * part)))
    for reserved, _ in under_way:
        budget.settle(reserved, reserved)
    assert budget.reserved == Tokens()
    assert budget.used.all <= 200
    assert budget.cost(budget.used) <= 0.001


def test_no_request_has_more_tokens_than_bytes() -> None:
    assert most_tokens(100, 2, 50) == Tokens(148, 50)
