"""Rewards: what they add up to, that none is ever made up, and what answers look like."""

import math
from collections.abc import Callable, Sequence

import pytest

from cai.errors import CaiError
from cai.models.local.logprobs import TokenRow
from cai.models.local.spec import Quantization
from cai.models.local.workbench import Workbench
from cai.models.protocol import Finish
from cai.records import Message
from cai.train.rewards import Blend, Part, from_function, from_scorer, rewarded
from cai.train.rollout import PromptRow, Rollout, looks


def rollout(
    text: str, sample: int = 0, ids: tuple[int, ...] = (20, 2), finish: Finish = "stop", to: str = "p"
) -> Rollout:
    prompt = PromptRow(to, (Message("system", "S"), Message("user", "Q")), (5, 6))
    return Rollout(prompt, sample, text, TokenRow(prompt.prompt_ids, ids), finish)


def length(messages: Sequence[Message], answer: str) -> float:
    return len(answer) + 10 * len(messages)


def test_a_function_is_asked_answer_by_answer_with_the_whole_conversation() -> None:
    assert from_function(length)([rollout("ab"), rollout("")]) == [22, 20]


def test_a_function_that_fails_is_told_with_the_answer_and_the_place() -> None:
    def reward(messages: Sequence[Message], answer: str) -> float:
        return 1 / len(answer)

    wanted = (
        r"prompt p, answer 3: the reward function failed at .*test_rewards\.py:\d+ with ZeroDivisionError: division"
    )
    with pytest.raises(CaiError, match=wanted):
        rewarded(from_function(reward), [rollout("a"), rollout("", 3)])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_told_with_the_answer_and_never_replaced(wrong: float) -> None:
    with pytest.raises(CaiError, match=f"prompt p, answer 1: the reward is {wrong}"):
        rewarded(lambda rollouts: [1.0, wrong], [rollout("a"), rollout("b", 1)])
    with pytest.raises(CaiError, match=f"prompt p, answer 1: reward 'odd' is {wrong}"):
        rewarded(Blend((Part("odd", lambda rollouts: [1.0, wrong]),)), [rollout("a"), rollout("b", 1)])


def test_rewards_that_do_not_match_the_answers_are_refused() -> None:
    with pytest.raises(CaiError, match="gave 1 numbers for 2 answers"):
        rewarded(lambda rollouts: [1.0], [rollout("a"), rollout("b")])


def test_a_blend_is_the_weighted_sum_of_its_named_parts() -> None:
    """2 · length − ½ · (number of a's)."""
    short, letters = from_function(lambda _, answer: len(answer)), from_function(lambda _, answer: answer.count("a"))
    blend = Blend((Part("length", short, 2.0), Part("letters", letters, -0.5)))
    found = rewarded(blend, [rollout("aab"), rollout("b")])
    assert found.total == blend([rollout("aab"), rollout("b")]) == [5.0, 2.0]
    assert found.parts == {"length": [3, 1], "letters": [2, 0]}


def test_a_reward_models_score_is_its_own_less_the_offset(bench: Callable[[float, Quantization], Workbench]) -> None:
    workbench = bench(0.0, "none")
    scorer = workbench.scoring_trainee(None, seed=3)
    rows = [rollout("a", ids=(20, 30, 2)), rollout("b", ids=(40,), finish="length")]
    scores = scorer.scores([row.tokens for row in rows]).tolist()
    assert from_scorer(scorer, offset=0.5)(rows) == pytest.approx([score - 0.5 for score in scores])
    assert abs(scores[0] - scores[1]) > 1e-4
    workbench.release(scorer)


def test_what_answers_look_like_by_hand() -> None:
    """Of 1 2 3 4 1 2 3 4 the five 4-grams are four different ones; the other answer's one is another one."""
    found = looks([rollout("", ids=(1, 2, 3, 4, 1, 2, 3, 4), finish="length"), rollout("", ids=(9, 8, 7, 6))])
    assert found["completions/mean_length"] == 6
    assert found["completions/clipped_ratio"] == 0.5
    assert found["completions/repetition"] == pytest.approx((1 - 4 / 5) / 2)
    assert found["completions/distinct"] == pytest.approx(5 / 6)
    assert looks([rollout("", ids=(1, 2))])["completions/distinct"] == 1


def test_what_answers_share_is_the_phrase_that_most_of_them_have_whatever_was_asked() -> None:
    """5 6 7 8 stands in two of four answers, twice in one of them; 4 3 2 1 in two as well, but to one prompt alone."""
    answers = [("p", (5, 6, 7, 8, 5, 6, 7, 8)), ("q", (1, 5, 6, 7, 8)), ("r", (4, 3, 2, 1)), ("r", (4, 3, 2, 1))]
    found = [looks([rollout("", ids=ids, to=to) for to, ids in some])["completions/shared"]
             for some in (answers, answers[:3], answers[2:])]  # fmt: skip
    assert found == pytest.approx([2 / 4, 2 / 3, 0])
