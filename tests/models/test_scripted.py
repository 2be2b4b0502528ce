"""The scripted model: a real part that replays, so its bookkeeping is tested like any other model's."""

import pytest

from cai.errors import InputError
from cai.models.protocol import Choice, ChoiceRequest, Model, Reply, Request
from cai.models.scripted import ScriptedModel
from cai.records import Message


def asking(text: str) -> Request:
    return Request((Message("user", text),))


def test_replies_come_in_the_order_asked_over_several_calls() -> None:
    model: Model = ScriptedModel(["one", "two", "three"])
    first = model.generate([asking("a"), asking("b")])
    second = model.generate([asking("c")])
    assert [reply.text for reply in first + second] == ["one", "two", "three"]


def test_a_text_becomes_a_finished_reply_whose_tokens_are_its_words() -> None:
    (reply,) = ScriptedModel(["two words"]).generate([asking("a question of five words")])
    assert reply == Reply("two words", "stop", 5, 2)


def test_a_whole_reply_is_replayed_as_it_is() -> None:
    cut = Reply("half a sen", "length", 3, 3, (5, 6, 7))
    assert ScriptedModel([cut]).generate([asking("a")]) == [cut]


def test_a_function_answers_each_request() -> None:
    model = ScriptedModel(lambda request: request.messages[-1].content.upper())
    assert [reply.text for reply in model.generate([asking("x"), asking("y")])] == ["X", "Y"]


def test_a_script_that_runs_out_names_the_request_it_could_not_answer() -> None:
    model = ScriptedModel(["only one"], name="short")
    with pytest.raises(InputError) as caught:
        model.generate([asking("first"), asking("How do I boil an egg?")])
    assert str(caught.value) == (
        "model 'short': its script of 1 replies has run out at the request, got How do I boil an egg?; "
        "give it one reply for each request"
    )


def test_choices_come_from_their_function() -> None:
    model = ScriptedModel([], lambda request: [float(len(text)) for text in request.continuations])
    assert model.choose([ChoiceRequest((Message("user", "?"),), ("a", "bbb"))]) == [Choice((1.0, 3.0), tokens=1)]


def test_choosing_without_a_script_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"no script for choosing between 'A', 'B'.*pass `choices`"):
        ScriptedModel(["x"]).choose([ChoiceRequest((Message("user", "which?"),), ("A", "B"))])


def test_fingerprints_differ_with_the_name_the_texts_and_how_they_end() -> None:
    models = [
        ScriptedModel(["a"]),
        ScriptedModel(["b"]),
        ScriptedModel(["a"], name="other"),
        ScriptedModel([Reply("a", "length", 0, 1)]),
    ]
    assert len({model.fingerprint for model in models}) == 4
    assert ScriptedModel(["a"]).fingerprint == models[0].fingerprint
