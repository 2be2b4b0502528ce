"""What is taken off a model's reply, and what must be left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.frames import CRITIQUE, REVISION
from cai.feedback.clean import Cleaned, clean, folded, is_trivial, without_reasoning

ECHO = REVISION.format(revision="Rewrite it\nwithout harm.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sure, here is the revised answer: I cannot help.", "I cannot help."),
        ("Certainly! Here's an improved response:\n\nI cannot help.", "I cannot help."),
        ("Below is a version that I rewrote to be kinder:\nHello.", "Hello."),
        ("**Revised response:**\nHello.", "Hello."),
        ("Updated reply: Hello.", "Hello."),
    ],
)
def test_an_opening_that_announces_the_revision_is_taken_off(text: str, expected: str) -> None:
    cleaned = clean(text, "revision")
    assert cleaned.text == expected
    assert cleaned.removed == ("preamble",)


@pytest.mark.parametrize(
    "text",
    [
        "Here is a recipe: flour and water.",
        "Sure, here is how to do it: first wash your hands.",
        "Answer: 42",
        "The answer was revised by the court in 1990: it is legal.",
        "I cannot help with that. Here is why the message was corrected\nlater: no reason.",
        "Note: ask a doctor.",
    ],
)
def test_an_answer_that_has_a_colon_is_left_alone(text: str) -> None:
    assert clean(text, "revision").text == text
    assert clean(text, "revision").removed == ()


def test_an_answer_is_not_stripped_of_what_only_a_revision_says() -> None:
    text = "Here is the corrected version: 2 + 2 = 4."
    assert clean(text, "answer").text == text
    assert clean(text, "revision").text == "2 + 2 = 4."


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("answer", "Assistant: Hello."),
        ("answer", "**Assistant:** Hello."),
        ("critique", "Critique: Hello."),
        ("critique", "assistant: Critique: Hello."),
        ("revision", "### Revision:\nHello."),
    ],
)
def test_the_name_of_the_speaker_or_the_step_is_taken_off(step: str, text: str) -> None:
    cleaned = clean(text, step)  # type: ignore[arg-type]
    assert cleaned.text == "Hello."
    assert set(cleaned.removed) == {"role prefix"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>They want harm.</think>\n\nNo.", "No."),
        ("They want harm.\n</think>No.", "No."),
        ("No.<think>Was that right? It goes on", "No."),
        ("<think>a</think>N<think>b</think>o.", "No."),
        ("<think>never an answer", ""),
        ("1 < 2 and think>", "1 < 2 and think>"),
    ],
)
def test_reasoning_is_kept_out(text: str, expected: str) -> None:
    assert without_reasoning(text) == expected
    assert clean(text, "answer").text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ECHO}\n\nI cannot help.", "I cannot help."),
        (f"{ECHO} I cannot help.", "I cannot help."),
        ("Revision request: be kinder\nI cannot help.", "I cannot help."),
        ("Reply with the answer only. I cannot help.", "I cannot help."),
        (f"I cannot help.\n\n{CRITIQUE.format(critique='Find harm.')}\nThere is none.", "I cannot help."),
        ("I cannot help. Critique request: find", "I cannot help."),
        ("I cannot help.\nCompare two answers to one request.\n\nRequest:", "I cannot help."),
    ],
)
def test_a_leaked_frame_goes_with_what_follows_it_unless_it_opens_the_reply(text: str, expected: str) -> None:
    cleaned = clean(text, "revision")
    assert cleaned.text == expected
    assert "leaked frame" in cleaned.removed


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I cannot help.\n\nHuman: And now?\n\nAssistant: No.", "I cannot help."),
        ("I cannot help.\n\nUser: And now?", "I cannot help."),
        ("I cannot help.\n \n**Assistant:** Anything else?", "I cannot help."),
        ("I cannot help.\n\nHuman:", "I cannot help."),
    ],
)
def test_a_reply_that_goes_on_with_another_turn_ends_before_it(text: str, kept: str) -> None:
    for step in ("answer", "critique", "revision"):
        assert clean(text, step) == Cleaned(kept, ("another turn",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "Here is a short dialogue:\n\nUser: Hello\n\nAssistant: Good day.",
        "User: Hello\nAssistant: Good day.\n\nUser: Bye",
        "**User:** Hello\n\n**Assistant:** Good day.",
        "Every user: read this.\nA human: me.",
        "Ask for help.\nUser: the name of your account",
    ],
)
def test_a_dialogue_that_was_asked_for_stays_whole(text: str) -> None:
    assert clean(text, "answer") == Cleaned(text)


def test_a_reply_that_speaks_as_the_user_is_refused_and_an_echo_of_the_question_is_taken_off() -> None:
    asked = "How do I pick a lock?"
    assert clean("Human: And a safe?", "answer", asked) == Cleaned("", ("the user's turn",), "speaks as the user")
    echoed = clean(f"Human: {asked}\n\nAssistant: Use a pick.", "answer", asked)
    assert echoed == Cleaned("Use a pick.", ("echoed turn", "role prefix"))
    assert clean(f"User: {asked}", "answer", asked) == Cleaned("", ("echoed turn",))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>user\nWhy?", "No."),
        ("No.<end_of_turn>\n<start_of_turn>user", "No."),
        ("No.<|eot_id|>", "No."),
        ("A turn ends with `<|im_end|>`.", "A turn ends with `<|im_end|>`."),
    ],
)
def test_markup_of_turns_that_came_as_text_is_no_part_of_an_answer(text: str, kept: str) -> None:
    cleaned = clean(text, "answer")
    assert cleaned.text == kept
    assert set(cleaned.removed) == ({"turn markup"} if kept != text else set())


@pytest.mark.parametrize("name", ["thinking", "reasoning", "scratchpad"])
def test_reasoning_by_another_name_is_kept_out_too(name: str) -> None:
    assert clean(f"<{name}>They want harm.</{name}>No.", "answer") == Cleaned("No.", ("reasoning",))
    assert without_reasoning(f"No.<{name}>hm") == "No."


def test_the_published_labels_are_frames_too() -> None:
    text = "It helps a thief.\nRevisionRequest: Remove it.\nRevision: No."
    assert clean(text, "critique") == Cleaned("It helps a thief.", ("leaked frame",))
    assert clean("CritiqueRequest: Find harm.\nNone.", "critique") == Cleaned("None.", ("leaked frame",))
    assert clean("Her CritiqueRequest: was late.", "answer").removed == ()


def test_several_things_are_taken_off_and_each_is_named_in_its_order() -> None:
    text = "<think>hm</think>Assistant: Sure, here is the revised answer: No.\nCritique request: more"
    cleaned = clean(text, "revision")
    assert cleaned.text == "No."
    assert cleaned.removed == ("reasoning", "role prefix", "leaked frame", "preamble")


FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "Assistant:", "Revision:", "Critique: ", "Here is the revised answer:"),
        *("Human:", "\n\nUser: ", "\n\nAssistant: ", "<|im_end|>", "<|im_start|>user", "<reasoning>", "</reasoning>"),
        *(
            ECHO,
            "RevisionRequest: x",
            "Critique request:",
            "Reply with the answer only.",
            "Hello",
            "No.",
            " ",
            "\n",
            ":",
            "**",
        ),
    ]
)


@given(st.lists(FRAGMENTS | st.text(max_size=8), max_size=8).map("".join), st.sampled_from(["answer", "revision"]))
def test_cleaning_twice_changes_nothing_more_and_invents_nothing(text: str, step: str) -> None:
    cleaned = clean(text, step)  # type: ignore[arg-type]
    assert clean(cleaned.text, step).removed == ()  # type: ignore[arg-type]
    assert len(cleaned.text) <= len(text)
    assert bool(cleaned.removed) == (cleaned.text != text.strip())


@given(st.text(max_size=200).filter(lambda text: ":" not in text and "<" not in text and ">" not in text))
def test_a_text_without_a_colon_or_a_tag_keeps_every_character(text: str) -> None:
    assert clean(text, "revision").text == text.strip()


def test_white_space_is_no_difference_and_punctuation_no_content() -> None:
    assert folded(" a\n\tb  c ") == folded("a b c")
    assert [is_trivial(text) for text in ("", " \n", ":", "…!?", "-", "no", "3", "да", "答")] == [True] * 5 + [
        False
    ] * 4
