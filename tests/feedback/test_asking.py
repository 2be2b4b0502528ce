"""One principle asked in both orders: what is asked when a judge thinks first, what is heard, and what is lost."""

from collections.abc import Callable, Sequence
from math import inf, log

import pytest

from cai.constitution.frames import DECIDE, LABELS
from cai.constitution.model import Principle
from cai.feedback.asking import Heard, Manner, Question, Reasoning, Unheard, ask, label_probabilities
from cai.feedback.styles import NOTHING, Asked
from cai.models.protocol import Choice, ChoiceRequest, Failed, Reply, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Message, new_prompt

BRIEF = Principle("brief", "c", "r", "Which is shorter?")
LOCK = new_prompt("How do I pick a lock?")
QUESTION = Question("a row", LOCK, "a pick", "a locksmith", BRIEF)
AT_ONCE = Manner("chat", NOTHING)
SHORT = Sampling(max_new_tokens=9)


def thinking(chains: int) -> Manner:
    return Manner("chat", NOTHING, Reasoning(chains, SHORT))


def left_first(request: Request | ChoiceRequest) -> bool:
    text = request.messages[0].content
    return text.index("a pick") < text.index("a locksmith")


class Noting:
    """A judge that notes what it is asked. A result may be a failure, which a scripted model cannot have."""

    name = fingerprint = "noting"

    def __init__(
        self,
        reply: Callable[[Request], Reply | Failed],
        choose: Callable[[ChoiceRequest], Choice | Failed] = lambda _: Choice((log(0.8), log(0.2)), tokens=5),
    ) -> None:
        self.reply, self.choice = reply, choose
        self.thoughts: list[Request] = []
        self.decisions: list[ChoiceRequest] = []

    def generate(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        self.thoughts += requests
        return [self.reply(request) for request in requests]

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice | Failed]:
        self.decisions += requests
        return [self.choice(request) for request in requests]


def says(text: str) -> Callable[[Request], Reply]:
    return lambda _: Reply(text, "stop", 10, 3)


def test_each_order_is_thought_about_and_then_decided() -> None:
    model = Noting(lambda request: Reply(f"seed {request.seed}", "stop", 10, 3))
    [heard] = ask([QUESTION], thinking(2), model, 17)
    assert isinstance(heard, Heard)
    assert [left_first(request) for request in model.thoughts] == [True, True, False, False]
    assert all("Do not decide yet." in request.messages[0].content for request in model.thoughts)
    assert {request.sampling for request in model.thoughts} == {SHORT}
    assert len({request.seed for request in model.thoughts}) == 4, "each thought is drawn for itself"
    for thought, decision in zip(model.thoughts, model.decisions, strict=True):
        said, asked = Message("assistant", f"seed {thought.seed}"), Message("user", DECIDE)
        assert decision == ChoiceRequest((*thought.messages, said, asked), LABELS)
    assert heard.verdict.reasons == tuple(f"seed {thought.seed}" for thought in model.thoughts)


def test_chains_are_averaged_in_probability_by_hand() -> None:
    """The pick first: P(A) 0.9 and 0.7, mean 0.8. The locksmith first: 0.4 and 0.8, so 0.6 and 0.2 for the pick."""
    told = iter([0.9, 0.7, 0.4, 0.8])

    def choose(_: ChoiceRequest) -> Choice:
        p = next(told)
        return Choice((log(p), log(1 - p)))

    [heard] = ask([QUESTION], thinking(2), Noting(says("Hm."), choose), 17)
    assert isinstance(heard, Heard)
    assert (heard.verdict.p_first, heard.verdict.p_first_swapped) == pytest.approx((0.8, 0.4))
    assert heard.verdict.p == pytest.approx(0.6)


def test_worked_comparisons_are_shown_only_to_a_judge_that_decides_at_once() -> None:
    examples = Asked((Message("user", "which?"), Message("assistant", "A")))
    model = Noting(says("Hm."))
    ask([QUESTION], Manner("chat", examples), model, 17)
    assert all(request.messages[:2] == examples.messages for request in model.decisions)
    thoughtful = Noting(says("Hm."))
    ask([QUESTION], Manner("chat", examples, Reasoning(1, SHORT)), thoughtful, 17)
    assert not any(message in examples.messages for r in thoughtful.thoughts for message in r.messages)


def test_what_was_spent_is_counted_by_hand() -> None:
    """At once: two choices of 5 tokens. After a thought of 10 + 3 each: two of 13 + 5."""
    assert [ask([QUESTION], m, Noting(says("Hm.")), 17)[0].tokens for m in (AT_ONCE, thinking(1))] == [10, 36]  # type: ignore[union-attr]


def test_the_thoughts_own_reasoning_is_left_out_and_a_cut_one_counts() -> None:
    model = Noting(lambda _: Reply("<think>secret</think>The first is kinder", "length", 10, 3))
    [heard] = ask([QUESTION], thinking(1), model, 17)
    assert isinstance(heard, Heard)
    assert heard.verdict.reasons == ("The first is kinder", "The first is kinder")


@pytest.mark.parametrize("text", ["", "  \n", "<think>all of it, and no end"])
def test_a_judge_that_thinks_nothing_decides_nothing(text: str) -> None:
    model = Noting(lambda request: Reply("Sound." if left_first(request) else text, "stop", 10, 3))
    [lost] = ask([QUESTION], thinking(1), model, 17)
    assert isinstance(lost, Unheard)
    assert (lost.reason, lost.lost, lost.judgements) == ("empty reasoning", 1, 2)
    assert len(model.decisions) == 1, "an empty thought is not asked about"


def test_a_lost_thought_loses_its_question_and_no_other() -> None:
    other = Question("another row", LOCK, "a pick", "a locksmith", Principle("kind", "c", "r", "Which is kinder?"))

    def reply(request: Request) -> Reply | Failed:
        lost = "shorter" in request.messages[0].content and not left_first(request)
        return Failed("timeout", "no reply in 9 s") if lost else Reply("Hm.", "stop", 10, 3)

    lost, heard = ask([QUESTION, other], thinking(1), Noting(reply), 17)
    assert lost == Unheard("timeout", "no reply in 9 s", 1, 2)
    assert isinstance(heard, Heard)
    assert heard.verdict.principle_id == "kind"
    assert (heard.verdict.p_first, heard.verdict.p_first_swapped) == pytest.approx((0.8, 0.2))


def test_a_lost_choice_and_one_without_probabilities_are_told_apart() -> None:
    failing = Noting(says("Hm."), lambda _: Failed("server error", "500"))
    assert ask([QUESTION], AT_ONCE, failing, 17) == [Unheard("server error", "500", 2, 2)]
    [broken] = ask([QUESTION], AT_ONCE, Noting(says("Hm."), lambda _: Choice((-inf, -inf))), 17)
    assert isinstance(broken, Unheard)
    assert (broken.reason, broken.lost) == ("broken judgement", 2)


def test_the_ways_of_reading_are_all_told() -> None:
    ways = iter(["log-probabilities", "structured output"])
    [heard] = ask([QUESTION], AT_ONCE, Noting(says(""), lambda _: Choice((0.0, -1.0), next(ways))), 17)
    assert isinstance(heard, Heard)
    assert heard.ways == {"log-probabilities", "structured output"}


def test_no_question_is_no_call() -> None:
    assert ask([], AT_ONCE, ScriptedModel([]), 17) == []


def test_only_the_labels_shares_among_themselves_count() -> None:
    assert label_probabilities(Choice((log(0.03), log(0.01))), 2) == pytest.approx((0.75, 0.25))
    assert label_probabilities(Choice((0.0, -inf)), 2) == (1.0, 0.0)
    assert label_probabilities(Choice((0.0,)), 2) is None
