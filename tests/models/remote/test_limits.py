"""Limits on tokens, cost and time: never passed, counted over runs, and nothing that was paid for is lost at them."""

import time

import pytest

from cai.errors import EndpointError
from cai.models.protocol import Reply
from cai.models.remote.budget import Tokens
from tests.models.remote.conftest import Open, asking, texts
from tests.models.remote.fake_server import Served

PATIENT = {"idle_seconds": 30, "call_seconds": 60}
"""A call that a busy machine makes late must not be asked again where paid replies are counted."""


def test_a_token_limit_is_never_passed_and_what_was_paid_for_is_kept(server: Served, remote: Open) -> None:
    requests = [asking(f"row {i}") for i in range(100)]
    model = remote(limits={"tokens": 1500}, **PATIENT)
    with pytest.raises(EndpointError, match=r"the limit of 1500 tokens is reached: \d+ are used; raise it under"):
        model.generate(requests)
    paid = len(server.paid)
    assert 0 < model.used.all <= 1500
    assert len(set(server.paid.values())) == 1
    model.close()
    results = remote(limits={"tokens": 100_000}, **PATIENT).generate(requests)
    assert texts(results) == [f"reply to row {i}" for i in range(100)]
    assert set(server.paid.values()) == {1}
    assert len(server.paid) > paid


def test_a_cost_limit_counts_what_the_journal_holds(server: Served, remote: Open) -> None:
    settings = {"prices": {"prompt": 1000, "reply": 2000}, "limits": {"cost": 2}}
    model = remote(**settings)
    model.generate([asking("row 1")])
    assert model.cost is not None
    # Two probes and a row: 3 x 10 prompt tokens and 4 + 4 + 4 reply tokens.
    assert model.cost == pytest.approx(3 * 10 * 1e-3 + 12 * 2e-3)
    before = model.cost
    model.close()
    again = remote(**settings)
    assert again.cost == before
    with pytest.raises(EndpointError, match="the limit of 2 on cost is reached"):
        again.generate([asking(f"row {i}") for i in range(100)])
    assert again.cost <= 2


def test_a_reply_without_usage_counts_as_the_most_it_can_have_been(server: Served, remote: Open) -> None:
    server.usage = False
    model = remote()
    (reply,) = model.generate([asking("x")])
    assert isinstance(reply, Reply)
    assert reply.completion_tokens == 0
    assert model.used.reply >= 32
    assert model.used.prompt > 100


def test_a_time_limit_ends_the_job(server: Served, remote: Open) -> None:
    server.delay = 0.05
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"the limit of 0\.6 seconds is reached"):
        remote(limits={"seconds": 0.6}, concurrency=1).generate([asking(f"row {i}") for i in range(100)])
    assert time.monotonic() - began < 5
    assert set(server.paid.values()) == {1}


def test_replies_that_were_paid_for_and_cannot_be_used_count(server: Served, remote: Open) -> None:
    """An empty choice comes with its usage: 10 and 3 tokens, three times."""
    model = remote()
    model.generate([asking("one")])
    before = model.used
    server.plan = lambda asked, attempt: "empty choices" if asked.words == "two" else "ok"
    model.close()
    again = remote(tries=3)
    assert texts(again.generate([asking("two")])) == ["empty choices"]
    again.close()
    assert remote().used == before + Tokens(30, 9)
