"""An agent's tools at an endpoint: a call of one that was offered is an answer, any other is a failed row."""

from dataclasses import replace

import pytest

from cai.models.protocol import Failed, Reply
from cai.models.remote.model import _value_of
from cai.models.remote.wire import Answer
from tests.models.remote.conftest import Open, asking
from tests.models.remote.fake_server import Served


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_an_offered_tool_is_an_answer(server: Served, remote: Open, stream: bool) -> None:
    server.calls_tool = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": '{"sum": 9}'}}
    tool: dict[str, object] = {"type": "function", "function": {"name": "pay"}}
    model = remote(stream=stream)
    (reply,) = model.generate([replace(asking("Pay."), tools=(tool,))])
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish) == (
        '<tool_call>{"arguments": {"sum": 9}, "name": "pay"}</tool_call>',
        "stop",
    )


def test_a_call_that_nothing_was_offered_for_or_that_is_not_there_is_a_failed_row(server: Served, remote: Open) -> None:
    server.plan = lambda asked, attempt: "ok" if asked.probes else "tool call"
    tool: dict[str, object] = {"type": "function", "function": {"name": "pay"}}
    results = remote().generate([asking("Pay."), replace(asking("Pay now."), tools=(tool,))])
    assert [result.reason for result in results if isinstance(result, Failed)] == ["tool call"] * 2


def test_a_call_for_which_nothing_was_offered_is_no_text_however_the_reply_ends() -> None:
    answer = Answer("<tool_call>{}</tool_call>", "stop", "small", None, calls=1)
    assert _value_of(answer, asking("Pay."))["failed"] == ["tool call", "the model called a tool instead of answering"]
