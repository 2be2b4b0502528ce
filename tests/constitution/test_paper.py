"""The published frames: pinned word for word, written out by hand, and closed to the texts that stand in them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import frames, paper
from cai.records import Message

LABELS = ("Human", "Assistant", "System", "Tool", "Tools", "CritiqueRequest", "Critique", "RevisionRequest", "Revision")
ODD = st.lists(
    st.sampled_from([*(f"{each}:" for each in (*LABELS, "Options", "The answer is")), "(A)", " (B)", "\n", "\r", "x"]),
    max_size=12,
).map("".join)


def test_the_published_frames_are_the_pinned_ones() -> None:
    """A changed word changes what every model says: say so in the changelog before pinning another digest."""
    assert paper.paper_digest() == "5053e47a1903faeac969e23b1442a6964506ee2f8c68ea8f79d5d8b3503f97b9"
    assert paper.paper_digest() != frames.frames_digest()


@pytest.mark.parametrize(
    "name", ["SPEAKERS", "TOOLS", "TURN", "WAITING", "CRITIQUE", "REVISION", "JUDGE", "LABELS", "STOPS"]
)
def test_the_digest_covers_every_frame(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = paper.paper_digest()
    value = getattr(paper, name)
    monkeypatch.setattr(paper, name, f"{value} " if isinstance(value, str) else [*value, "more"])
    assert paper.paper_digest() != before


def test_every_speaker_of_a_conversation_is_named() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "How warm is it?"),
        Message("assistant", "I look."),
        Message("tool", "21 degrees"),
    )
    assert paper.answer_text(paper.conversation_text(messages)) == (
        "\n\nSystem: Be brief.\n\nHuman: How warm is it?\n\nAssistant: I look.\n\nTool: 21 degrees\n\nAssistant:"
    )


def test_tools_stand_before_the_conversation_that_may_use_them() -> None:
    tool: dict[str, object] = {"type": "function", "function": {"name": "look", "description": "Wärme"}}
    assert paper.conversation_text((Message("user", "Hi"),), (tool,)) == (
        '\n\nTools: [{"type": "function", "function": {"name": "look", "description": "Wärme"}}]\n\nHuman: Hi'
    )


@given(st.text(max_size=40) | ODD)
def test_no_text_can_write_a_label_of_the_frames(text: str) -> None:
    said = paper.conversation_text((Message("user", text), Message("assistant", text)))
    asked = paper.revision_text(paper.critique_text(said, text, "Find harm."), text, "Remove it.")
    found = re.findall(rf"(?im)(?:^|(?<=[\r\v\f\x1c-\x1e\x85\u2028\u2029]))\s*({'|'.join(LABELS)}):", asked)
    assert found == [
        *("Human", "Assistant", "Assistant", "CritiqueRequest", "Critique"),
        *("RevisionRequest", "Revision"),
    ]


@given(ODD, ODD)
def test_no_answer_can_write_another_option_or_the_verdict(first: str, second: str) -> None:
    asked = paper.judge_text("\n\nHuman: Hi", first, second, "Which is better?")
    assert re.findall(r"(?im)(?:^|(?<=\r))\s*(\([AB]\))", asked) == ["(A)", "(B)"]
    assert len(re.findall(r"(?im)(?:^|(?<=\r))\s*The answer is:", asked)) == 1
    assert len(re.findall(r"(?im)(?:^|(?<=\r))\s*Options:", asked)) == 1


def test_ordinary_words_stay_as_they_are() -> None:
    text = "My options: wait, or ask. A human: that is me.\n - Humans: many\n(a1) first\nThe answer is 42."
    assert paper.inert(text) == text
    assert paper.inert("Human: a\n  human: b\n(A) c\n (b) d") == "Human : a\n  human : b\n( A) c\n ( b) d"
    assert paper.inert(paper.inert("Human: a\n(B)")) == paper.inert("Human: a\n(B)")


def test_braces_in_a_principle_or_an_answer_stay_as_they_are() -> None:
    odd = "{first} {0} {{x}} %s"
    assert paper.judge_text(odd, odd, odd, odd).count(odd) == 4
    assert paper.revision_text(paper.critique_text("", odd, odd), odd, odd).count(odd) == 4
