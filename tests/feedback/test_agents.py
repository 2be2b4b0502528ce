"""An agent's actions are criticised, revised and judged as answers are; a revision that cannot be done is a reject."""

import pytest

from cai.constitution.model import Constitution, Principle
from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.pairs import CandidatePair
from cai.feedback.revise import ReviseSettings, revise
from cai.feedback.styles import Style
from cai.models.scripted import ScriptedModel
from cai.records import Message, Prompt, new_prompt
from tests.feedback.test_paper_style import Witness

ONE = Constitution("one", "1.0.0", "", (Principle("careful", "Find risks.", "Act safely.", "Which is safer?"),))
TOOL: dict[str, object] = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
BILL = new_prompt((Message("user", "Pay the bill."), Message("assistant", "Which one?"), Message("user", "This.")))
ASKED = Prompt("agent", BILL.messages, (TOOL,))
MUCH = '<tool_call>{"arguments": {"sum": 900}, "name": "pay"}</tool_call>'
LITTLE = '<tool_call>{"arguments": {"sum": 9}, "name": "pay"}</tool_call>'
BOTH = pytest.mark.parametrize("style", ["chat", "paper"])


@BOTH
def test_an_action_is_shown_to_the_critic_as_text_and_its_revision_is_read(style: Style) -> None:
    replies = ['{"name": "pay", "parameters": {"sum": 900}}', "That is all the money.", f"Only what is due. {LITTLE}"]
    model = Witness(ScriptedModel(replies))
    (record,) = revise([ASKED], ONE, model, model, ReviseSettings(1, style=style), 17).records
    assert (record.initial, record.final) == (MUCH, f"Only what is due. {LITTLE}")
    critique = model.asked[1]
    assert MUCH in (critique.text or critique.messages[-2].content)


@BOTH
def test_the_same_call_written_otherwise_is_a_null_edit(style: Style) -> None:
    other = '<tool_call>\n{"name": "pay", "arguments": {"sum": 900}}\n</tool_call>'
    model = ScriptedModel([MUCH, "Nothing is wrong.", other])
    (record,) = revise([ASKED], ONE, model, model, ReviseSettings(1, style=style), 17).records
    assert [turn.changed for turn in record.rounds] == [False]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (["<tool_call>pay</tool_call>"], "broken tool call in answer"),
        ([MUCH, "Bad.", MUCH.replace("pay", "rob")], "broken tool call in revision"),
        ([MUCH, "Bad.", MUCH.removesuffix("</tool_call>")], "broken tool call in revision"),
        ([MUCH, LITTLE], "tool call in place of a critique"),
    ],
)
@BOTH
def test_what_cannot_be_carried_out_is_a_named_reject(style: Style, replies: list[str], reason: str) -> None:
    model = ScriptedModel(replies)
    outcome = revise([ASKED], ONE, model, model, ReviseSettings(1, style=style), 17)
    assert [reject.reason for reject in outcome.rejects] == [reason]
    assert outcome.records == []


def test_an_action_may_be_revised_into_words_and_calls_are_counted() -> None:
    model = ScriptedModel([MUCH, "That is too much.", "I would rather ask first."])
    outcome = revise([ASKED], ONE, model, model, ReviseSettings(1), 17)
    assert outcome.records[0].final == "I would rather ask first."
    assert outcome.notes == {"answer: with tool calls": 1}


@BOTH
def test_the_judge_sees_actions_in_the_conversation_and_in_both_answers(style: Style) -> None:
    call = {"function": {"name": "pay", "arguments": '{"sum": 1}'}}
    done = (*ASKED.messages, Message("assistant", "", (call,)), Message("tool", "paid"))
    model = Witness(ScriptedModel([], choices=lambda request: (-1.0, -2.0)))
    pair = CandidatePair(Prompt("done", done, (TOOL,)), MUCH, LITTLE, "test")
    judge([pair], ONE, model, JudgeSettings(style=style), 17)
    for request in model.weighed:
        text = request.text or request.messages[-1].content
        assert all(shown in text for shown in (MUCH, LITTLE, '{"sum": 1}', "paid"))
