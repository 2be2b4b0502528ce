"""Records survive their JSON line, and ids depend on content alone."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.records import (
    Lineage,
    Message,
    Preference,
    Prompt,
    Reject,
    Revision,
    Round,
    Verdict,
    as_dict,
    canonical,
    content_id,
    digest,
    from_dict,
    from_line,
    new_prompt,
    to_line,
)

LINEAGE = Lineage("c" * 64, "f" * 64, 17, "base", "base", "judge")
TEXTS = st.text(st.characters(exclude_categories=("Cs",)))


@given(first=TEXTS, second=TEXTS, p=st.floats(0, 1), kind=st.sampled_from(["preferred", "tie", "contradiction"]))
def test_a_preference_survives_its_json_line(first: str, second: str, p: float, kind: str) -> None:
    prompt = new_prompt(first, source="tiny/align/benign", system="Be brief.")
    preference = Preference(prompt, first, second, p, (Verdict("no-harm", p, 1 - p),), kind, LINEAGE, "samples")
    line = to_line(preference)
    assert "\n" not in line
    assert from_line(Preference, line) == preference


def test_a_revision_with_tools_survives_its_json_line() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = (Message("user", "Look."), Message("assistant", "", (call,)), Message("tool", "found", (), "1"))
    prompt = Prompt("p1", messages, ({"type": "function", "function": {"name": "look"}},), "mine")
    revision = Revision(prompt, "No.", (Round("no-harm", "Rude.", "Here.", True),), "Here.", LINEAGE)
    assert from_line(Revision, to_line(revision)) == revision


def test_a_line_names_every_field_in_the_declared_order() -> None:
    assert to_line(Reject("r1", "revise", "empty", "nothing came")) == (
        '{"id":"r1","stage":"revise","reason":"empty","detail":"nothing came"}'
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"id": "r1", "stage": "s", "reason": "r", "detail": 3}, "Reject.detail: expected str"),
        ({"id": "r1", "stage": "s", "reason": "r"}, "detail"),
        ({"id": "r1", "stage": "s", "reason": "r", "detail": "d", "more": 1}, "unknown field 'more'"),
        (["r1"], "expected an object"),
    ],
)
def test_a_value_of_another_shape_is_refused_by_field(value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        from_dict(Reject, value)


def test_a_role_that_no_one_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Message\.role: expected one of system, user, assistant, tool, got 'robot'"):
        from_dict(Message, {"role": "robot", "content": "hello"})


def test_a_whole_number_becomes_a_float_where_one_belongs() -> None:
    verdict = from_dict(Verdict, {"principle_id": "a", "p_first": 1, "p_first_swapped": 0})
    assert isinstance(verdict.p_first, float)
    assert verdict.p == 0.5


def test_an_id_depends_on_content_and_not_on_the_source() -> None:
    assert new_prompt("Hello", source="a").id == new_prompt("Hello", source="b").id
    assert new_prompt("Hello").id != new_prompt("Hello!").id
    assert new_prompt("Hello").id != new_prompt("Hello", system="Be brief.").id
    assert new_prompt((Message("user", "Hello"),)) == new_prompt("Hello")


def test_ids_are_the_same_in_every_process() -> None:
    # By hand: the first 16 digits of printf '["a",1]' | sha256sum.
    assert content_id("a", 1) == "135f17a475a61afd"


def test_parts_do_not_run_into_each_other() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")


def test_a_canonical_form_forgets_key_order_and_refuses_nan() -> None:
    assert canonical({"b": 1, "a": [True, None]}) == '{"a":[true,null],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        canonical(math.nan)


def test_a_record_as_a_dict_holds_plain_json_values() -> None:
    plain = as_dict(new_prompt("Hello"))
    assert json.loads(json.dumps(plain)) == plain


def test_a_verdict_turned_is_about_the_other_answer_and_turned_again_itself() -> None:
    """The left answer got 0.75 shown first and 0.5 shown second. The right one was shown first where the left was
    second, and got 1 - 0.5; its thoughts change places with it."""
    verdict = Verdict("p", 0.75, 0.5, ("left first", "also", "left second", "as well"))
    assert verdict.turned() == Verdict("p", 0.5, 0.25, ("left second", "as well", "left first", "also"))
    assert verdict.turned().turned() == verdict
