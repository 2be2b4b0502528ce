"""Replies read strictly: whole ones give an answer, broken ones a fault, and bytes may be split anywhere."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.models.remote.faults import Fault
from cai.models.remote.wire import Answer, EventReader, StreamReader, read_answer

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def reply(**changes: object) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice], "usage": USAGE, **changes}


def choice_of(value: dict[str, object]) -> dict[str, object]:
    return value["choices"][0]  # type: ignore[index, no-any-return]


def fault(value: object) -> Fault:
    with pytest.raises(Fault) as caught:
        read_answer(value if isinstance(value, str) else json.dumps(value))
    assert caught.value.kind == "again"
    return caught.value


def test_a_whole_reply_is_read() -> None:
    assert read_answer(json.dumps(reply())) == Answer("hello", "stop", "m", (3, 2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(choices=[]), "empty choices"),
        (lambda v: v.pop("choices"), "empty choices"),
        (lambda v: v.update(choices="x"), "empty choices"),
        (lambda v: v.update(choices=[3]), "unclear reply"),
        (lambda v: choice_of(v).update(index=1), "unclear reply"),
        (lambda v: choice_of(v).pop("message"), "unclear reply"),
        (lambda v: choice_of(v).update(finish_reason=None), "incomplete reply"),
        (lambda v: choice_of(v).update(finish_reason="because"), "incomplete reply"),
        (lambda v: choice_of(v).update(finish_reason=[]), "incomplete reply"),
        (lambda v: v["choices"].append({**choice_of(v), "message": {"content": "other"}}), "unclear reply"),
        (lambda v: v.update(error={"message": "oops"}), "server error"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_a_fault_that_knows_what_was_paid(
    change: Callable[[dict[str, object]], object], reason: str
) -> None:
    value = reply()
    change(value)
    broken = fault(value)
    assert broken.reason == reason
    assert broken.used == (3, 2)


@pytest.mark.parametrize("body", ["", "<html>", "[1]", '"text"', "null", "[" * 100_000, '{"a": 1', "9" * 5000])
def test_what_is_no_object_is_not_json(body: str) -> None:
    assert fault(body).reason == "not JSON"


def test_a_reply_may_be_written_in_unusual_ways() -> None:
    second = {"index": 1, "message": {"content": "second"}, "finish_reason": "stop"}
    value = reply()
    assert read_answer(json.dumps(reply(choices=[second, choice_of(value), choice_of(value)]))).text == "hello"
    parts = [{"type": "text", "text": "hel"}, {"type": "image"}, {"type": "text", "text": "lo"}]
    choice_of(value)["message"] = {"content": parts}
    assert read_answer(json.dumps(value)).text == "hello"
    choice_of(value)["message"] = {"content": None, "refusal": "I will not."}
    assert read_answer(json.dumps(value)).text == "I will not."
    choice_of(value)["message"] = {"content": None}
    assert read_answer(json.dumps(value)).text == ""


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": True, "completion_tokens": 1}, [1]],
)
def test_usage_that_is_not_told_properly_is_unknown_and_not_nothing(usage: object) -> None:
    assert read_answer(json.dumps(reply(usage=usage))).used is None


def test_half_characters_become_whole_ones() -> None:
    body = json.dumps(reply()).replace("hello", "a\\ud800b\\ud83d\\ude00")
    assert read_answer(body).text == "a�b😀"


def top(entries: object) -> Answer:
    value = reply()
    choice_of(value)["logprobs"] = {"content": [{"token": "x", "logprob": 0, "top_logprobs": entries}]}
    return read_answer(json.dumps(value))


def test_log_probabilities_of_the_first_position_are_read_each_text_once() -> None:
    entries = [{"token": t, "logprob": p} for t, p in (("A", -1), ("B", -2.0), ("A", -5), ("C", -math.inf))]
    assert top(entries).top == {"A": -1.0, "B": -2.0, "C": -math.inf}


@pytest.mark.parametrize(
    "entries",
    [None, [], [3], [{"token": "A"}], [{"token": 1, "logprob": -1}], [{"token": "A", "logprob": 0.5}],
     [{"token": "A", "logprob": math.nan}], [{"token": "A", "logprob": True}], [{"token": "A", "logprob": "-1"}]],
)  # fmt: skip
def test_log_probabilities_that_are_not_in_order_are_none(entries: object) -> None:
    assert top(entries).top is None


NAMES = (
    *("choices", "message", "content", "index", "finish_reason", "usage", "logprobs", "model", "delta"),
    *("top_logprobs", "token", "logprob", "prompt_tokens", "error"),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@given(VALUES)
def test_any_json_gives_an_answer_or_a_fault(value: object) -> None:
    for read in (read_answer, stream_answer):
        try:
            answer = read(json.dumps(value))
        except Fault as broken:
            assert broken.kind == "again"
        else:
            answer.text.encode()


def stream_answer(event: str) -> Answer:
    reader = StreamReader()
    reader.feed(f"data: {event}\n\ndata: [DONE]\n\n".encode())
    return reader.answer()


def events(text: str, end: str = "\n", pieces: int = 3) -> bytes:
    chunks: list[object] = [{"delta": {"role": "assistant"}}]
    chunks += [{"delta": {"content": text[i::pieces]}} for i in range(pieces)]
    chunks += [{"delta": {}, "finish_reason": "stop"}]
    lines = [": a comment", ""]
    for chunk in chunks:
        data = json.dumps({"model": "m", "choices": [{"index": 0, **chunk}]}, ensure_ascii=False)  # type: ignore[dict-item]
        lines += ["event: message", f"data: {data}", ""]
    lines += ["data: " + json.dumps({"model": "m", "choices": [], "usage": USAGE}), "", "data: [DONE]", "", ""]
    return end.join(lines).encode()


def read_in_pieces(data: bytes, cuts: list[int]) -> StreamReader:
    reader, at = StreamReader(), 0
    for cut in [*sorted(cuts), len(data)]:
        reader.feed(data[at:cut])
        at = cut
    return reader


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.data())
def test_a_stream_says_the_same_wherever_its_bytes_are_split(text: str, end: str, data: st.DataObject) -> None:
    content = events(text, end, 1)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=8))
    assert read_in_pieces(content, cuts).answer() == Answer(text, "stop", "m", (3, 2))


@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.data())
def test_a_stream_cut_anywhere_is_never_complete(text: str, end: str, data: st.DataObject) -> None:
    content = events(text, end)
    cut = data.draw(st.integers(0, len(content) - len(end.encode())))
    content = content[: max(0, cut - 1)]
    with pytest.raises(Fault, match="incomplete stream"):
        read_in_pieces(content, []).answer()


@given(st.binary(), st.lists(st.integers(0, 200), max_size=6))
def test_events_are_the_same_wherever_any_bytes_are_split(content: bytes, cuts: list[int]) -> None:
    content = content.replace(b"\x00", b"\ndata: ").replace(b"\x01", b"\n\n").replace(b"\x02", b"\r")
    whole, split, at = EventReader(), EventReader(), 0
    found: list[str] = []
    for cut in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
        found += split.feed(content[at:cut])
        at = cut
    assert found == whole.feed(content)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["[DONE]"], "incomplete stream"),
        (['{"choices": [{"delta": {"content": "x"}}]}', "[DONE]"], "incomplete stream"),
        (['{"choices": [{"delta": {}, "finish_reason": "stop"}]}'], "incomplete stream"),
        (['{"error": {"message": "oops"}}'], "server error"),
        (["half a li"], "not JSON"),
        (
            ['{"choices": [{"delta": {}, "finish_reason": "stop"}]}', '{"choices": [{"delta": {"content": "x"}}]}'],
            "unclear reply",
        ),
    ],
)
def test_a_stream_that_does_not_end_as_it_should_is_a_fault(lines: list[str], reason: str) -> None:
    reader = StreamReader()
    with pytest.raises(Fault) as caught:
        reader.feed("".join(f"data: {line}\n\n" for line in lines).encode())
        reader.answer()
    assert caught.value.reason == reason


def test_tool_calls_stand_in_the_text_behind_what_was_said() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": '{"sum": 9, "a": "\\u2028"}'}}
    message = {"role": "assistant", "content": "I pay.", "tool_calls": [call, call]}
    body = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    answer = read_answer(json.dumps(body))
    line = '<tool_call>{"arguments": {"a": "\u2028", "sum": 9}, "name": "pay"}</tool_call>'
    assert (answer.text, answer.ending, answer.calls) == (f"I pay.\n{line}\n{line}", "tool call", 2)
    message["content"] = None
    assert read_answer(json.dumps(body)).text == f"{line}\n{line}"
