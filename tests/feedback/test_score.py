"""Direct scores: the expectation by hand, and what a broken judge does."""

from collections.abc import Sequence
from math import inf, log, nan

import pytest

from cai.constitution.frames import SCORES
from cai.constitution.model import Principle
from cai.errors import CaiError
from cai.feedback.score import Rated, score
from cai.models.protocol import Choice, ChoiceRequest
from cai.models.scripted import ScriptedModel
from cai.records import new_prompt

KIND = Principle("kind", "c", "r", "How kind is it?")
BRIEF = Principle("brief", "c", "r", "How brief is it?")
PROMPT = new_prompt("Hello?")


def giving(shares: dict[int, float]) -> ScriptedModel:
    """A judge that spreads its probability over the scores like this."""
    return ScriptedModel([], lambda _: [log(shares[i]) if shares.get(i) else -inf for i in range(1, 11)])


def scored(answers: Sequence[str], judge: ScriptedModel) -> list[float]:
    return score([Rated(PROMPT, answer, KIND) for answer in answers], judge, 17)


def test_the_score_is_the_expected_number_by_hand() -> None:
    """Shares 0.1, 0.2 and 0.1 of the whole make 1/4, 1/2 and 1/4 among themselves: 2/4 + 7/2 + 10/4 = 6.5."""
    assert scored(["Hi."], giving({2: 0.1, 7: 0.2, 10: 0.1})) == [pytest.approx(6.5)]


def test_an_even_judge_gives_the_middle_and_a_sure_one_its_number() -> None:
    assert scored(["Hi."], giving(dict.fromkeys(range(1, 11), 0.1))) == [pytest.approx(5.5)]
    assert scored(["Hi."], giving({10: 1.0})) == [10.0]


def test_all_answers_are_asked_in_one_call_and_an_empty_one_is_not_asked() -> None:
    asked: list[str] = []

    def choices(request: ChoiceRequest) -> Sequence[float]:
        assert request.continuations == SCORES
        asked.append(request.messages[-1].content)
        return [0.0 if label == ("9" if "Hi." in asked[-1] else "3") else -inf for label in SCORES]

    answers = ["Bah.", "<think>Hi.</think>…", "Hi."]
    assert scored(answers, ScriptedModel([], choices)) == [3.0, 1.0, 9.0]
    assert len(asked) == 2
    assert all("How kind is it?" in text and "Hello?" in text for text in asked)


def test_several_principles_are_asked_in_one_call_and_nothing_is_asked_twice() -> None:
    calls: list[list[str]] = []

    class Counting(ScriptedModel):
        def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
            calls.append([request.messages[-1].content for request in requests])
            return super().choose(requests)

    def choices(request: ChoiceRequest) -> Sequence[float]:
        number = "8" if BRIEF.preference in request.messages[-1].content else "3"
        return [0.0 if label == number else -inf for label in SCORES]

    asked = [Rated(PROMPT, answer, principle) for answer in ("Hi.", "Bah.", "Hi.") for principle in (KIND, BRIEF)]
    assert score(asked, Counting([], choices), 17) == [3.0, 8.0] * 3
    assert [len(call) for call in calls] == [4]
    assert len(set(calls[0])) == 4


@pytest.mark.parametrize("values", [[nan] * 10, [-1.0] * 9, [-inf] * 10])
def test_a_judge_without_usable_probabilities_raises(values: list[float]) -> None:
    with pytest.raises(CaiError, match="model 'scripted': it gave no probability for every score"):
        scored(["Hi."], ScriptedModel([], lambda _: values))
