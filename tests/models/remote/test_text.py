"""Plain text at an endpoint: gone on with and weighed over `/completions`, or refused before anything is asked."""

import math

import pytest

from cai.errors import InputError
from cai.models.protocol import Choice, ChoiceRequest, Failed, Reply, Request, Sampling
from tests.models.remote.conftest import Open, asked_rows, asking, first_fails, texts
from tests.models.remote.fake_server import Served

LABELS = (" (A)", " (B)")
QUESTION = ChoiceRequest((), LABELS, "Which?\nThe answer is:")


def going_on(text: str, seed: int = 0, temperature: float = 1.0) -> Request:
    return Request((), Sampling(temperature, max_new_tokens=32, stop=("\n\nHuman:",)), seed, text=text)


def test_a_text_is_sent_as_it_is_with_its_sampling(server: Served, remote: Open) -> None:
    (reply,) = remote().generate([going_on("\n\nHuman: Hi\n\nAssistant:", 5)])
    (asked,) = [call for call in server.calls if not call.probes]
    assert asked.body == {
        "model": "small",
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 32,
        "stop": ["\n\nHuman:"],
        "seed": 5,
    }
    assert reply == Reply("reply to \n\nHuman: Hi\n\nAssistant:", "stop", 10, 2)


def test_a_streamed_text_is_the_same_and_a_cut_stream_is_asked_again(server: Served, remote: Open) -> None:
    whole = remote("whole").generate([going_on(f"text {i}") for i in range(4)])
    server.plan = first_fails("cut stream")
    assert texts(remote("streamed", stream=True).generate([going_on(f"text {i}") for i in range(4)])) == texts(whole)


def test_a_text_that_was_answered_is_never_asked_for_again(server: Served, remote: Open) -> None:
    requests = [going_on(f"text {i}") for i in range(3)]
    with remote() as model:
        first = model.generate(requests)
    before = len(server.calls)
    assert remote().generate(requests) == first
    assert len(server.calls) == before


def test_a_text_and_a_conversation_of_the_same_words_are_kept_apart(server: Served, remote: Open) -> None:
    model = remote()
    both = model.generate([asking("hi"), going_on("hi")])
    assert len(asked_rows(server)) == 2
    assert all(isinstance(reply, Reply) for reply in both)


def test_targets_are_told_apart_by_the_token_behind_what_they_share(server: Served, remote: Open) -> None:
    """The server says A, `A).` (two spellings of the first target, 0.9 p together) and B."""
    server.p_of_a = lambda asked: 0.75
    (choice,) = remote().choose([QUESTION])
    assert isinstance(choice, Choice)
    assert choice.way == "log-probabilities"
    assert [math.exp(p) for p in choice.logprobs] == pytest.approx([0.675, 0.225])
    asked = asked_rows(server)[-1]
    assert asked.body["prompt"] == "Which?\nThe answer is: ("
    assert (asked.body["logprobs"], asked.body["max_tokens"]) == (5, 1)


@pytest.mark.parametrize(
    ("said", "told"),
    [(" (B)", (-math.inf, 0.0)), (" (A) because it is kind", (0.0, -math.inf)), (" B.", (-math.inf, 0.0))],
)
def test_without_log_probabilities_the_text_itself_is_read(
    server: Served, remote: Open, said: str, told: tuple[float, float]
) -> None:
    server.logprobs, server.answer = False, lambda asked: said
    (choice,) = remote().choose([QUESTION])
    assert choice == Choice(told, "parsed text", 12)


@pytest.mark.parametrize("said", ["", " Both are fine.", " (A) or (B)", " AB", " Because"])
def test_a_text_that_names_no_target_is_no_verdict(server: Served, remote: Open, said: str) -> None:
    server.logprobs, server.answer = False, lambda asked: said
    (choice,) = remote().choose([QUESTION])
    if said == " (A) or (B)":
        assert choice == Choice((0.0, -math.inf), "parsed text", 12), "it begins with one of them"
    else:
        assert isinstance(choice, Failed)


def test_an_endpoint_that_only_chats_is_refused_with_what_to_do(server: Served, remote: Open) -> None:
    server.completions = False
    model = remote()
    for ask in (model.check_text, lambda: model.generate([going_on("hi")]), lambda: model.choose([QUESTION])):
        with pytest.raises(InputError, match=r"no /completions .*set style: chat"):
            ask()
    assert [call for call in server.calls if not call.probes] == []
    assert texts(model.generate([asking("hi")])) == ["reply to hi"], "a chat goes on all the same"
    server.completions = True
    assert texts(model.generate([going_on("hi")])) == ["reply to hi"], "and a refusal is not kept"


def test_a_server_without_a_chat_goes_on_with_text(server: Served, remote: Open) -> None:
    """What vLLM makes of a base model that has no chat template."""
    server.chats = False
    model = remote()
    assert texts(model.generate([going_on("hi")])) == ["reply to hi"]
    (choice,) = model.choose([QUESTION])
    assert isinstance(choice, Choice)


def test_not_found_for_one_text_among_others_is_tried_again(server: Served, remote: Open) -> None:
    server.plan = first_fails("404")
    assert texts(remote(tries=3).generate([going_on("a"), going_on("b")])) == ["reply to a", "reply to b"]
