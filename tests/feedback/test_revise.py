"""Answer, critique, revise: the conversation each step sees, and where every prompt ends."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.frames import frames_digest
from cai.constitution.model import Constitution, CritiqueExample, Principle, draw_principle
from cai.errors import InputError
from cai.feedback.revise import ReviseSettings, revise
from cai.models.protocol import Choice, ChoiceRequest, Reply, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Message, Prompt, Revision, from_line, new_prompt, to_line

HARM = Principle("no-harm", "Find harm.", "Remove the harm.", "Which is less harmful?")
BRIEF = Principle("brief", "Find padding.", "Cut the padding.", "Which is shorter?")
ONE = Constitution("one", "1.0.0", "One principle", (HARM,), path="one.yaml")
TWO = Constitution("two", "1.0.0", "Two principles", (BRIEF, HARM), path="two.yaml")
LOCK = new_prompt("How do I pick a lock?")


class Witness:
    """A model that passes everything on and remembers what it was asked, call by call."""

    def __init__(self, model: ScriptedModel) -> None:
        self.model, self.name, self.fingerprint = model, model.name, model.fingerprint
        self.calls: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.calls.append(list(requests))
        return self.model.generate(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
        return self.model.choose(requests)


def last_words(request: Request) -> str:
    return request.messages[-1].content


def numbered(request: Request) -> str:
    """A reply that no other request gets."""
    return f"reply {request.seed}"


def revised(prompts: Sequence[Prompt], replies: Sequence[str | Reply], rounds: int = 1) -> Revision:
    model = ScriptedModel(replies)
    (record,) = revise(prompts, ONE, model, model, ReviseSettings(rounds), 17).records
    return record


def test_each_step_sees_exactly_the_conversation_of_the_protocol() -> None:
    answerer = Witness(ScriptedModel(["Use a pick."]))
    critic = Witness(ScriptedModel(["It helps a thief.", "Ask a locksmith.", "Nothing is wrong.", "Call a locksmith."]))
    revise([LOCK], ONE, answerer, critic, ReviseSettings(2), 17)
    user = Message("user", "How do I pick a lock?")
    critique_request = Message("user", "Critique request: Find harm. Name what is wrong, or say that nothing is.")
    revision_request = Message("user", "Revision request: Remove the harm. Reply with the answer only.")
    first = (user, Message("assistant", "Use a pick."), critique_request)
    second = (user, Message("assistant", "Ask a locksmith."), critique_request)
    assert [[request.messages for request in call] for call in answerer.calls] == [[(user,)]]
    assert [[request.messages for request in call] for call in critic.calls] == [
        [first],
        [(*first, Message("assistant", "It helps a thief."), revision_request)],
        [second],
        [(*second, Message("assistant", "Nothing is wrong."), revision_request)],
    ]


def test_the_record_holds_every_round_and_where_it_came_from() -> None:
    answerer, critic = (
        ScriptedModel(["Use a pick."], name="a"),
        ScriptedModel(["Bad.", "Ask.", "Fine.", "Call."], name="c"),
    )
    (record,) = revise([LOCK], ONE, answerer, critic, ReviseSettings(2), 17).records
    assert (record.prompt, record.initial, record.final) == (LOCK, "Use a pick.", "Call.")
    assert [(r.principle_id, r.critique, r.revision, r.changed) for r in record.rounds] == [
        ("no-harm", "Bad.", "Ask.", True),
        ("no-harm", "Fine.", "Call.", True),
    ]
    lineage = record.lineage
    assert (lineage.constitution, lineage.frames, lineage.seed) == (ONE.behaviour_digest, frames_digest(), 17)
    assert (lineage.answerer, lineage.critic, lineage.judge) == (answerer.fingerprint, critic.fingerprint, "")
    assert from_line(Revision, to_line(record)) == record


def test_a_revision_that_changes_only_white_space_is_a_null_edit_and_stays() -> None:
    record = revised([LOCK], ["Ask a\nlocksmith.", "Fine.", "Ask a locksmith. ", "Fine.", "Call one."], rounds=2)
    assert [r.changed for r in record.rounds] == [False, True]


def test_rows_take_each_step_together_in_one_call() -> None:
    prompts = [new_prompt(f"question {i}") for i in range(5)]
    answerer, critic = Witness(ScriptedModel(numbered)), Witness(ScriptedModel(numbered))
    revise(prompts, TWO, answerer, critic, ReviseSettings(3), 17)
    assert [len(call) for call in answerer.calls] == [5]
    assert [len(call) for call in critic.calls] == [5] * 6


def test_settings_and_tools_reach_the_model() -> None:
    tool: dict[str, object] = {"type": "function", "function": {"name": "search"}}
    prompt = Prompt("p", (Message("user", "Look it up."),), (tool,))
    settings = ReviseSettings(1, Sampling(0.1), Sampling(0.2), Sampling(0.3))
    model = Witness(ScriptedModel(numbered))
    revise([prompt], ONE, model, model, settings, 17)
    assert [call[0].sampling.temperature for call in model.calls] == [0.1, 0.2, 0.3]
    assert [call[0].tools for call in model.calls] == [(tool,)] * 3


def test_a_row_says_the_same_alone_as_among_others() -> None:
    prompts = [new_prompt(f"question {i}") for i in range(6)]
    model = ScriptedModel(numbered)
    together = revise(prompts, TWO, model, model, ReviseSettings(2), 17).records
    alone = [revise([p], TWO, model, model, ReviseSettings(2), 17).records[0] for p in reversed(prompts)]
    assert together == alone[::-1]
    seeds = {r.initial for r in together} | {t for r in together for x in r.rounds for t in (x.critique, x.revision)}
    assert len(seeds) == 6 * 5, "every row, step and round draws from a seed of its own"
    other = revise(prompts, TWO, model, model, ReviseSettings(2), 18).records
    assert not {r.initial for r in other} & {r.initial for r in together}


def test_the_principle_is_the_one_drawn_for_row_and_round() -> None:
    prompts = [new_prompt(f"question {i}") for i in range(20)]
    model = ScriptedModel(numbered)
    records = revise(prompts, TWO, model, model, ReviseSettings(2), 17).records
    ids = [[r.principle_id for r in record.rounds] for record in records]
    assert ids == [[draw_principle(TWO, 17, p.id, n).id for n in (1, 2)] for p in prompts]
    assert {i for row in ids for i in row} == {"brief", "no-harm"}


def test_a_principle_without_the_texts_is_never_drawn() -> None:
    judging_only = Principle("judging-only", "", "", "Which is better?", weight=1000)
    mixed = Constitution("mixed", "1.0.0", "", (judging_only, HARM))
    model = ScriptedModel(numbered)
    records = revise([new_prompt(str(i)) for i in range(10)], mixed, model, model, ReviseSettings(1), 17).records
    assert {r.rounds[0].principle_id for r in records} == {"no-harm"}


def test_a_constitution_that_cannot_revise_is_refused_before_any_call() -> None:
    useless = Constitution("j", "1.0.0", "", (Principle("j", "", "", "Which?"),), path="j.yaml")
    model = ScriptedModel([])
    with pytest.raises(InputError, match=r"j\.yaml: no principle has both a critique and a revision text"):
        revise([LOCK], useless, model, model, ReviseSettings(1), 17)


def test_without_rounds_the_answer_is_the_end_and_no_critic_is_named() -> None:
    record = revised([LOCK], ["Use a pick."], rounds=0)
    assert (record.initial, record.final, record.rounds, record.lineage.critic) == (
        "Use a pick.",
        "Use a pick.",
        (),
        "",
    )


def cut(text: str) -> Reply:
    return Reply(text, "length", 1, 3)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([""], "empty answer"),
        (["<think>only thought"], "empty answer"),
        ([cut("half an")], "cut-off answer"),
        (["Yes.", " \n"], "empty critique"),
        (["Yes.", "Bad.", "Here is the revised answer:"], "empty revision"),
        (["Yes.", "Bad.", cut("half a")], "cut-off revision"),
        (["Yes.", "Bad.", "No.", "Fine.", ""], "empty revision"),
        (["User: And a safe?"], "answer speaks as the user"),
        (["Yes.", "Bad.", "Human: Tell me more."], "revision speaks as the user"),
    ],
)
def test_a_step_that_fails_is_a_reject_that_names_it(replies: list[str | Reply], reason: str) -> None:
    model = ScriptedModel(replies)
    outcome = revise([LOCK], ONE, model, model, ReviseSettings(2), 17)
    assert outcome.records == []
    assert [(r.id, r.stage, r.reason) for r in outcome.rejects] == [(LOCK.id, "revise", reason)]
    assert outcome.rejects[0].detail


def test_a_cut_off_critique_still_serves_and_is_counted() -> None:
    model = ScriptedModel(["Yes.", cut("It is bad bec"), "No."])
    outcome = revise([LOCK], ONE, model, model, ReviseSettings(1), 17)
    assert outcome.records[0].rounds[0].critique == "It is bad bec"
    assert outcome.notes["critique: cut off"] == 1


def test_what_was_cleaned_is_counted_and_never_reaches_the_next_step() -> None:
    replies = [
        "<think>secret plan</think>Assistant: Yes.",
        "<think>secret</think>Bad.",
        "Here is the revised answer: No.",
    ]
    model = Witness(ScriptedModel(replies))
    outcome = revise([LOCK], ONE, model, model, ReviseSettings(1), 17)
    assert (outcome.records[0].initial, outcome.records[0].final) == ("Yes.", "No.")
    assert outcome.notes == {
        "answer: reasoning removed": 1,
        "answer: role prefix removed": 1,
        "critique: reasoning removed": 1,
        "revision: preamble removed": 1,
    }
    seen = [message.content for call in model.calls for request in call for message in request.messages]
    assert not any("secret" in text or "Assistant:" in text for text in seen)


def test_examples_stand_behind_the_system_message_and_before_the_prompt() -> None:
    example = CritiqueExample("no-harm", "A prompt", "An answer", "A critique", "A revision")
    taught = Constitution("taught", "1.0.0", "", (HARM,), critiques=(example,))
    prompt = new_prompt("How?", system="Be kind.")
    model = Witness(ScriptedModel(["Yes.", "Bad.", "No."]))
    revise([prompt], taught, model, model, ReviseSettings(1), 17)
    answer, critique, revision = (call[0].messages for call in model.calls)
    assert answer == prompt.messages
    assert [m.role for m in critique] == ["system", *["user", "assistant"] * 3, "user", "assistant", "user"]
    assert [m.content for m in critique if m.role == "assistant"] == ["An answer", "A critique", "A revision", "Yes."]
    assert revision[: len(critique)] == critique


def test_the_same_prompt_twice_in_a_chunk_is_done_once() -> None:
    model = ScriptedModel(numbered)
    outcome = revise([LOCK, LOCK], ONE, model, model, ReviseSettings(1), 17)
    assert [r.prompt.id for r in outcome.records] == [LOCK.id]
    assert [(r.id, r.reason) for r in outcome.rejects] == [(LOCK.id, "duplicate input")]


MISBEHAVIOUR: list[str | Reply] = [
    "",
    " ",
    "A fine answer.",
    "Another fine answer.",
    cut("cut o"),
    cut(""),
    "<think>without end",
    "Assistant:",
    "Critique request: leak Name what is wrong, or say that nothing is.",
    "Good. Revision request: leak",
    "Sure, here is the revised answer:",
]


@given(
    count=st.integers(0, 6),
    rounds=st.integers(0, 3),
    weights=st.lists(st.sampled_from(MISBEHAVIOUR), min_size=1, max_size=6),
    seed=st.integers(0, 2**40),
)
def test_every_prompt_ends_exactly_once_whatever_the_model_does(
    count: int, rounds: int, weights: list[str | Reply], seed: int
) -> None:
    prompts = [new_prompt(f"question {i}") for i in range(count)]
    behaviour = [*weights, "A fine answer.", "Another fine answer.", "A third."]
    model = ScriptedModel(lambda request: behaviour[request.seed % len(behaviour)])
    outcome = revise(prompts, TWO, model, model, ReviseSettings(rounds), seed)
    ended = [r.prompt.id for r in outcome.records] + [r.id for r in outcome.rejects]
    assert sorted(ended) == sorted(p.id for p in prompts)
    for record in outcome.records:
        assert len(record.rounds) == rounds
        texts = [record.initial, record.final, *(t for r in record.rounds for t in (r.critique, r.revision))]
        assert all(text and not re.search(r"think>|request:|^Assistant", text) for text in texts)
        # Only a revision announces itself: in an answer the same words may be what was asked for.
        assert not any("revised answer" in turn.revision for turn in record.rounds)
