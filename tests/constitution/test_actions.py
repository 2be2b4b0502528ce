"""Tool calls as text: one form whatever they came in, and refused where they could not be carried out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.actions import call_text, read_actions, said
from cai.constitution.frames import as_text
from cai.constitution.paper import conversation_text
from cai.records import Message

TOOLS = tuple({"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "pay"))
LOOK = '<tool_call>{"arguments": {"city": "Rome", "day": 3}, "name": "look"}</tool_call>'
OPENAI = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"day": 3, "city": "Rome"}'}}


@pytest.mark.parametrize(
    "text",
    [
        LOOK,
        '<tool_call>\n{"name": "look", "arguments": {"day": 3, "city": "Rome"}}\n</tool_call>',
        '{"name": "look", "parameters": {"day": 3, "city": "Rome"}}',
        '[{"name": "look", "arguments": {"city": "Rome", "day": 3}}]',
        json.dumps({"name": "look", "arguments": '{"city": "Rome", "day": 3}'}),
    ],
)
def test_the_same_call_is_the_same_text_in_every_dialect(text: str) -> None:
    actions = read_actions(text, TOOLS)
    assert (actions.text, actions.calls, actions.words, actions.broken) == (LOOK, (LOOK,), "", "")


def test_words_stay_where_they_stand() -> None:
    actions = read_actions(f"I look first.\n{LOOK}\nThen I pay.", TOOLS)
    assert actions.text == f"I look first.\n{LOOK}\nThen I pay."
    assert actions.words == "I look first.\n\nThen I pay."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<tool_call>look at Rome</tool_call>", "no JSON object"),
        ('<tool_call>{"name": "look", "arguments": "Rome"}</tool_call>', "no JSON object"),
        ('<tool_call>{"name": "rob", "arguments": {}}</tool_call>', "there is no tool 'rob'; offered are look, pay"),
        ('<tool_call>{"name": "look", "arguments": {}}', "does not end"),
    ],
)
def test_a_call_that_could_not_be_carried_out_is_told(text: str, why: str) -> None:
    actions = read_actions(text, TOOLS)
    assert why in actions.broken
    assert actions.text == text


@pytest.mark.parametrize("text", ['{"name": "Ada", "born": 1815}', '["look"]', "Look!", "{}", "[]", "3"])
def test_json_that_calls_nothing_is_an_answer(text: str) -> None:
    assert read_actions(text, TOOLS) == read_actions(text, ())


def test_without_tools_every_text_is_an_answer() -> None:
    assert (read_actions(LOOK, ()).text, read_actions(LOOK, ()).calls) == (LOOK, ())


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9) | st.none(), max_size=3))
def test_what_was_written_is_read_again(arguments: dict[str, object]) -> None:
    line = call_text("look", arguments)
    if "tool_call>" not in json.dumps(arguments):
        assert read_actions(line, TOOLS).text == line


def test_a_conversation_shows_what_an_agent_did_to_judge_and_critic() -> None:
    talk = (
        Message("user", "How warm is Rome?"),
        Message("assistant", "", (OPENAI,)),
        Message("tool", "21 degrees", tool_call_id="c1"),
    )
    assert said(talk[1]) == LOOK
    assert as_text(talk) == f"User: How warm is Rome?\nAssistant: {LOOK}\nTool: 21 degrees"
    assert conversation_text(talk) == f"\n\nHuman: How warm is Rome?\n\nAssistant: {LOOK}\n\nTool: 21 degrees"
