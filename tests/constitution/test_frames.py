"""The text around a principle: pinned word for word, and closed to the answers that stand in it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import frames
from cai.records import Message, new_prompt

ANSWERS = st.text(max_size=60)
HEX = st.text(alphabet="0123456789abcdef[]\n ", max_size=100)


def test_the_frames_are_the_pinned_ones() -> None:
    """A changed word changes what every model says: say so in the changelog before pinning another digest."""
    assert frames.frames_digest() == "599454f6470789e247989273519fe487a335b02393b5de5ac02212713d233c89"


def test_the_frames_of_a_judge_that_thinks_are_the_pinned_ones() -> None:
    assert frames.frames_digest(reasoned=True) == "fd2238b3dfc43439e18b3b939ad14bda2b748d0301120f0844d5e332ae668cf0"


@pytest.mark.parametrize("name", ["REASON", "DECIDE"])
def test_the_frames_of_thinking_are_in_the_digest_of_a_judge_that_thinks_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain, reasoned = frames.frames_digest(), frames.frames_digest(reasoned=True)
    monkeypatch.setattr(frames, name, getattr(frames, name) + " ")
    assert frames.frames_digest() == plain
    assert frames.frames_digest(reasoned=True) != reasoned


def test_a_thought_is_asked_for_without_a_decision_and_then_the_decision_alone() -> None:
    messages = new_prompt("Why?").messages
    [asked] = frames.judge_messages(messages, "one", "two", "Which is better?", 5, reasoned=True)
    [plain] = frames.judge_messages(messages, "one", "two", "Which is better?", 5)
    assert asked.content.endswith("Do not decide yet.")
    assert asked.content.partition("First say")[0] == plain.content.partition("Reply with")[0], "the same fences"
    decision = frames.decision_messages([asked], "They differ.")
    assert [(m.role, m.content) for m in decision[1:]] == [
        ("assistant", "They differ."),
        ("user", "Reply with A or B."),
    ]


@pytest.mark.parametrize("name", ["CRITIQUE", "REVISION", "JUDGE", "SCORE"])
def test_the_digest_covers_every_frame(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = frames.frames_digest()
    monkeypatch.setattr(frames, name, getattr(frames, name) + " ")
    assert frames.frames_digest() != before


@given(HEX | ANSWERS, HEX | ANSWERS, st.integers(0, 2**63 - 1))
def test_an_answer_cannot_close_its_fence(first: str, second: str, seed: int) -> None:
    text = frames.judge_messages(new_prompt("Why?").messages, first, second, "Which is better?", seed)[0].content
    nonce = frames.fence_nonce(seed, [first, second, "Which is better?"])
    assert text.count(f"[{nonce}]") == 4
    assert nonce not in first
    assert nonce not in second
    a, b = re.findall(rf"Answer [AB] \[{nonce}\]:\n(.*?)\n\[{nonce}\]", text, re.DOTALL)
    assert (a, b) == (first, second)


@given(HEX | ANSWERS, st.integers(0, 2**63 - 1))
def test_a_scored_answer_cannot_close_its_fence(answer: str, seed: int) -> None:
    text = frames.score_messages(new_prompt("Why?").messages, answer, "How good?", seed)[0].content
    nonce = frames.fence_nonce(seed, [answer, "How good?"])
    assert re.findall(rf"Answer \[{nonce}\]:\n(.*?)\n\[{nonce}\]", text, re.DOTALL) == [answer]


def test_the_nonce_is_found_again_for_the_same_texts_and_avoids_them() -> None:
    nonce = frames.fence_nonce(5, ["", ""])
    assert frames.fence_nonce(5, ["", ""]) == nonce
    other = frames.fence_nonce(5, [f"I write [{nonce}] myself", ""])
    assert other != nonce
    assert re.fullmatch("[0-9a-f]{4}", other)


def test_texts_with_every_nonce_are_refused_rather_than_fenced() -> None:
    with pytest.raises(ValueError, match="every short nonce"):
        frames.fence_nonce(0, [" ".join(f"{i:04x}" for i in range(0x10000))])


def test_swapping_the_answers_swaps_nothing_else() -> None:
    messages = new_prompt("Why?").messages
    one = frames.judge_messages(messages, "first", "second", "Which is better?", 1)[0].content
    other = frames.judge_messages(messages, "second", "first", "Which is better?", 1)[0].content
    assert one.replace("first", "*").replace("second", "first").replace("*", "second") == other


def test_braces_in_a_principle_or_an_answer_stay_as_they_are() -> None:
    odd = "{first} {0} {{x}} %s"
    text = frames.judge_messages(new_prompt(odd).messages, odd, odd, odd, 1)[0].content
    assert text.count(odd) == 4
    assert odd in frames.critique_messages((), "answer", odd)[-1].content
    assert odd in frames.revision_messages((), "critique", odd)[-1].content


def test_critique_and_revision_form_one_exchange_in_turns() -> None:
    asked = frames.critique_messages(new_prompt("Why?").messages, "Because.", "Find flaws.")
    mended = frames.revision_messages(asked, "Too short.", "Say more.")
    assert [m.role for m in mended] == ["user", "assistant", "user", "assistant", "user"]
    assert mended[:3] == asked
    assert [m.content for m in mended[:4:3]] == ["Why?", "Too short."]
    assert "Find flaws." in asked[-1].content
    assert "Say more." in mended[-1].content


def test_a_conversation_names_its_speakers_and_a_lone_request_does_not() -> None:
    assert frames.as_text((Message("user", "Hi"),)) == "Hi"
    assert frames.as_text((Message("system", "Be brief"), Message("user", "Hi"))) == "System: Be brief\nUser: Hi"
