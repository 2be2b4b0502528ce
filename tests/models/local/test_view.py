"""What a local model answers, streams and weighs, through the whole room."""

import pytest

from cai.models.local.view import _safe_length
from cai.models.protocol import ChoiceRequest, Request, RowError, Sampling
from cai.records import Message


def ask(text: str, seed: int = 0, **sampling) -> Request:
    return Request((Message("user", text),), Sampling(**{"max_new_tokens": 16, **sampling}), seed)


REQUESTS = [ask(f"tell me {'more ' * (i % 5)}about {i}", seed=i) for i in range(70)]


@pytest.fixture(scope="module")
def workbench(open_bench):
    return open_bench("nf4")


def test_answers_come_in_the_order_asked_and_again_the_same(workbench):
    replies = workbench.view().generate(REQUESTS)
    assert replies == workbench.view().generate(REQUESTS)
    assert [r.prompt_tokens for r in replies] == [len(workbench.encode_prompt(r.messages)) for r in REQUESTS]
    assert len({reply.text for reply in replies}) > 60
    assert workbench.view().generate([]) == []


def test_an_answer_does_not_depend_on_what_else_is_asked(workbench):
    together = workbench.view().generate(REQUESTS)
    assert workbench.view().generate(REQUESTS[40:43]) == together[40:43]
    assert workbench.view().generate(REQUESTS[::-1])[::-1] == together


def test_another_seed_draws_another_answer_and_temperature_zero_none(workbench):
    first, second = workbench.view().generate([ask("hi", 1), ask("hi", 2)])
    assert first.text != second.text
    cold = workbench.view().generate([ask("hi", 1, temperature=0), ask("hi", 2, temperature=0)])
    assert cold[0].text == cold[1].text


def test_a_reply_ends_at_the_end_of_turn_which_its_text_does_not_show(workbench):
    replies = workbench.view().generate([ask("hi", seed, max_new_tokens=400) for seed in range(12)])
    end = workbench.encode((Message("user", "x"),), "y").completion_ids[-1]
    stopped = [reply for reply in replies if reply.finish == "stop"]
    assert stopped and all(reply.token_ids[-1] == end for reply in stopped)
    assert all(end not in reply.token_ids[:-1] and "<|" not in reply.text for reply in replies)
    assert all(len(reply.token_ids) == reply.completion_tokens for reply in replies)


def test_a_stop_text_ends_the_reply_and_is_cut_off(workbench):
    request = ask("hi", 5, max_new_tokens=60)
    free = workbench.view().generate([request])[0]
    stop = free.text[8:11]
    cut = workbench.view().generate([ask("hi", 5, max_new_tokens=60, stop=("never this", stop))])[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish == "stop" and cut.completion_tokens < free.completion_tokens
    assert free.token_ids[: cut.completion_tokens] == cut.token_ids


def test_streamed_pieces_join_to_the_generated_text_and_never_show_half_a_character(workbench):
    for seed in range(6):
        for stop in ((), ("e",), ("th", "zz")):
            request = ask("hi", seed, max_new_tokens=40, stop=stop)
            pieces = list(workbench.view().stream(request))
            assert "".join(pieces) == workbench.view().generate([request])[0].text
            assert all(pieces)


@pytest.mark.parametrize(
    ("text", "stops", "safe"),
    [("abc", (), 3), ("ab\ufffd", (), 2), ("ab\n", ("\n\n",), 2), ("see </", ("</end>",), 4), ("abab", ("abc",), 2)],
)
def test_what_may_still_change_is_held_back(text, stops, safe):
    assert _safe_length(text, stops) == safe


def test_a_stream_may_be_read_while_another_role_answers(workbench, tmp_path):
    trainee = workbench.trainee(None, seed=1)
    for parameter in trainee.parameters().values():
        parameter.data += 0.1
    request = ask("hi", 3, max_new_tokens=12)
    alone = workbench.view().generate([request])[0].text
    tuned = trainee.view().generate([request])[0].text
    pieces = []
    for piece in workbench.view().stream(request):
        pieces.append(piece)
        assert trainee.view().generate([request])[0].text == tuned
    assert "".join(pieces) == alone != tuned
    workbench.release(trainee)


def test_choosing_agrees_with_the_log_probabilities_that_training_sees(workbench):
    messages = (Message("user", "which one?"),)
    choice = workbench.view().choose([ChoiceRequest(messages, ("A", "B", "the fox"))])[0]
    trainee = workbench.trainee(None, seed=1)
    rows = [workbench.encode(messages, text) for text in ("A", "B", "the fox")]
    logps = trainee.reference_logps(rows).logps_BT
    expected = [logps[i, : len(row.completion_ids) - 1].sum().item() for i, row in enumerate(rows)]
    assert choice.logprobs == pytest.approx(expected, abs=1e-4)
    assert sum(choice.probabilities) == pytest.approx(1)
    workbench.release(trainee)


def test_an_answer_never_outgrows_the_context(workbench):
    reply = workbench.view().generate([ask("fox " * 120, max_new_tokens=10_000)])[0]
    assert reply.prompt_tokens + reply.completion_tokens <= 512
    with pytest.raises(RowError, match=r"too long: \d+ tokens and an answer do not fit the model's context of 512"):
        workbench.view().generate([ask("fox " * 600)])
