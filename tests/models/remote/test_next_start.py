"""A job that is started again: what its endpoint did in an earlier start counts, and what it does now as well."""

import time

import pytest

from cai.errors import EndpointError, InputError
from tests.models.remote.conftest import Open, asking, first_fails, texts
from tests.models.remote.fake_server import Served, running


@pytest.mark.parametrize("fault", ["redirect", "404", "wrong model"])
def test_settings_that_were_answered_to_before_are_no_mistake_in_the_next_start(
    server: Served, remote: Open, fault: str
) -> None:
    model = remote()
    assert texts(model.generate([asking("x")])) == ["reply to x"]
    model.close()
    server.plan = first_fails(fault)
    assert texts(remote().generate([asking("x"), asking("y")])) == ["reply to x", "reply to y"]
    assert server.faults[fault] == 1


def test_a_model_that_was_changed_between_two_starts_ends_the_job(server: Served, remote: Open) -> None:
    model = remote()
    model.generate([asking("x")])
    model.close()
    server.plan = lambda asked, attempt: "wrong model"
    with pytest.raises(EndpointError, match=r"at last wrong model .*set served_as: another-model"):
        remote(patience_seconds=0.5).generate([asking(f"row {i}") for i in range(30)])


def test_an_endpoint_that_is_gone_in_the_next_start_is_told_at_once(remote: Open) -> None:
    with running(Served()) as server:
        model = remote(url=server.url)
        model.generate([asking("x")])
        model.close()
    began = time.monotonic()
    with pytest.raises(InputError, match="no connection"):
        remote(url=server.url, patience_seconds=60).generate([asking("y")])
    assert time.monotonic() - began < 5
