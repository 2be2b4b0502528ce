"""Choosing at an endpoint, in the way that it can, and finding out which that is."""

import pytest

from cai.models.protocol import Choice, ChoiceRequest, Failed
from cai.records import Message
from tests.models.remote.conftest import Open, asked_rows, asking, texts
from tests.models.remote.fake_server import Served


def weighing(text: str, continuations: tuple[str, ...] = ("A", "B")) -> ChoiceRequest:
    return ChoiceRequest((Message("user", text),), continuations)


def test_choices_are_read_by_log_probabilities_where_they_are_told(server: Served, remote: Open) -> None:
    (choice,) = remote().choose([weighing("x")])
    assert isinstance(choice, Choice)
    assert choice.way == "log-probabilities"
    assert choice.probabilities == pytest.approx((0.75, 0.25))
    body = asked_rows(server)[0].body
    assert (body["max_tokens"], body["temperature"], body["top_logprobs"]) == (1, 1.0, 20)


def test_choices_fall_back_to_structured_output_and_then_to_parsed_text(server: Served, remote: Open) -> None:
    server.logprobs = False
    server.p_of_a = lambda asked: 0.2
    (choice,) = remote("one").choose([weighing("x")])
    assert isinstance(choice, Choice)
    assert (choice.probabilities, choice.way) == ((0.0, 1.0), "structured output")
    server.schema = False
    server.answer = lambda asked: "Answer: A"
    (choice,) = remote("two").choose([weighing("x")])
    assert isinstance(choice, Choice)
    assert (choice.probabilities, choice.way) == ((1.0, 0.0), "parsed text")


def test_a_judge_that_does_not_say_is_a_failed_choice_and_never_a_label(server: Served, remote: Open) -> None:
    server.logprobs = server.schema = False
    server.answer = lambda asked: "Both have their merits."
    for _ in range(2):
        model = remote()
        (failed,) = model.choose([weighing("x")])
        assert isinstance(failed, Failed)
        assert failed.reason == "unclear judgement"
        assert "Both have their merits." in failed.detail
        model.close()
    assert len(asked_rows(server)) == 1, "what was paid for is not asked again"


def test_texts_that_begin_alike_are_not_read_from_the_first_token(server: Served, remote: Open) -> None:
    server.schema = False
    server.answer = lambda asked: "10"
    (choice,) = remote().choose([weighing("x", ("1", "5", "10"))])
    assert isinstance(choice, Choice)
    assert (choice.way, choice.probabilities) == ("parsed text", (0.0, 0.0, 1.0))


def test_what_an_endpoint_takes_is_found_out_and_not_assumed(server: Served, remote: Open) -> None:
    server.limit, server.seed, server.logprobs = "max_completion_tokens", False, False
    model = remote()
    assert texts(model.generate([asking("x")])) == ["reply to x"]
    model.choose([weighing("x")])
    assert {"max_completion_tokens"} == {"max_tokens", "max_completion_tokens"} & asked_rows(server)[0].body.keys()
    assert "seed" not in asked_rows(server)[0].body
    assert model.facts["abilities"] == {
        "context": 4096, "limit": "max_completion_tokens", "logprobs": 0, "schema": True, "seed": False,
    }  # fmt: skip


def test_a_seed_is_probed_and_sent_only_where_something_is_drawn(server: Served, remote: Open) -> None:
    remote().generate([asking("x", seed=3, temperature=0.0)])
    assert all("seed" not in asked.body for asked in server.calls)


def test_probing_survives_faults(server: Served, remote: Open) -> None:
    server.plan = lambda asked, attempt: "ok" if attempt > 1 else "500"
    model = remote()
    assert texts(model.generate([asking("x")])) == ["reply to x"]
    assert isinstance(model.choose([weighing("x")])[0], Choice)
