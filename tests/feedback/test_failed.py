"""A model that loses some requests: each is a named reject of its row, and the other rows come out as ever."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.model import Constitution, Principle
from cai.errors import CaiError
from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.pairs import CandidatePair, from_samples
from cai.feedback.revise import ReviseSettings, revise
from cai.feedback.score import Rated, score
from cai.models.protocol import Choice, ChoiceRequest, Failed, Model, Reply, Request, RowError, Sampling, all_told
from cai.models.scripted import ScriptedModel
from cai.records import Prompt, new_prompt

HARM = Principle("no-harm", "Find harm.", "Remove the harm.", "Which is less harmful?")
BRIEF = Principle("brief", "Find padding.", "Cut the padding.", "Which is shorter?")
ONE = Constitution("one", "1.0.0", "One principle", (HARM,), path="one.yaml")
TWO = Constitution("two", "1.0.0", "Two principles", (BRIEF, HARM), path="two.yaml")
LOST = Failed("timeout", "no whole reply within 5 s, after 5 tries")
PROMPTS = [new_prompt(f"question {i}") for i in range(6)]


class Losing:
    """A scripted model that loses the requests for which this is true."""

    def __init__(
        self, model: ScriptedModel, lost: Callable[[Request | ChoiceRequest], bool], how: Failed = LOST
    ) -> None:
        self.model, self.lost, self.how = model, lost, how
        self.name, self.fingerprint = model.name, model.fingerprint

    def generate(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        return [self.how if self.lost(request) else self.model.generate([request])[0] for request in requests]

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice | Failed]:
        return [self.how if self.lost(request) else self.model.choose([request])[0] for request in requests]


class TwoWays:
    """A judge that is read in one way for one order, and in another for the other."""

    name = fingerprint = "two ways"

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        raise AssertionError(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
        ways = ("structured output", "parsed text")
        return [Choice((0.0, -2.0), ways[i % 2]) for i, _ in enumerate(requests)]


def writer() -> ScriptedModel:
    return ScriptedModel(lambda request: f"reply {request.seed}", lambda _: [-0.1, -3.0])


def conversation(request: Request | ChoiceRequest) -> str:
    return "\n".join(message.content for message in request.messages)


def reading(words: int) -> Losing:
    """A model that reads so many words and no more, and tells it as a local one does: for all requests at once."""

    def refuse(request: Request | ChoiceRequest) -> bool:
        if (length := len(conversation(request).split())) > words:
            raise RowError("too long", f"{length} words do not fit {words}")
        return False

    return Losing(writer(), refuse)


@pytest.mark.parametrize(
    ("lost", "detail"),
    [
        (lambda text: text == "question 2", "answer: no whole reply within 5 s, after 5 tries"),
        (lambda text: "question 2" in text and "Find harm" in text and "Remove" not in text, "round 1, critique: "),
        (lambda text: "question 2" in text and "Remove the harm" in text, "round 1, revision: "),
    ],
)
def test_a_lost_step_rejects_its_row_and_says_which_step_it_was(lost: Callable[[str], bool], detail: str) -> None:
    model: Model = Losing(writer(), lambda request: lost(conversation(request)))
    outcome = revise(PROMPTS, ONE, model, model, ReviseSettings(1), 17)
    whole = revise(PROMPTS, ONE, writer(), writer(), ReviseSettings(1), 17)
    (reject,) = outcome.rejects
    assert (reject.id, reject.stage, reject.reason) == (PROMPTS[2].id, "revise", "timeout")
    assert reject.detail.startswith(detail)
    assert [r for r in whole.records if r.prompt != PROMPTS[2]] == outcome.records


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (1, "prompt too long: answer: 2 words do not fit 1"),
        (10, "too long to criticise: round 1, critique: "),
        (20, "too long to revise: round 1, revision: "),
    ],
)
def test_what_is_too_long_is_named_by_what_it_was_for(words: int, told: str) -> None:
    with pytest.raises(RowError) as caught:
        revise(PROMPTS[:1], ONE, reading(words), reading(words), ReviseSettings(1), 17)
    assert str(caught.value).startswith(told)


def test_a_pair_that_is_too_long_to_judge_or_to_sample_says_so() -> None:
    with pytest.raises(RowError, match=r"too long to judge: judgement: .* do not fit 9"):
        judge([CandidatePair(PROMPTS[0], "a", "b", "")], ONE, reading(9), JudgeSettings(), 17)
    with pytest.raises(RowError, match="prompt too long: answer: 2 words do not fit 1"):
        from_samples(PROMPTS, reading(1), 2, Sampling(), 17)


def test_what_a_remote_model_finds_too_long_is_named_in_the_same_way() -> None:
    remote = Losing(writer(), lambda _: True, Failed("too long", "HTTP 400"))
    assert {r.reason for r in revise(PROMPTS, ONE, remote, remote, ReviseSettings(1), 17).rejects} == {
        "prompt too long"
    }
    assert {r.reason for r in from_samples(PROMPTS, remote, 2, Sampling(), 17).rejects} == {"prompt too long"}
    pair = CandidatePair(PROMPTS[0], "a", "b", "")
    assert [r.reason for r in judge([pair], ONE, remote, JudgeSettings(), 17).rejects] == ["too long to judge"]


@given(st.sets(st.integers(0, 40)))
def test_every_row_ends_once_whatever_is_lost(lost: set[int]) -> None:
    numbers = iter(range(1000))
    model: Model = Losing(writer(), lambda _: next(numbers) in lost)
    outcome = revise(PROMPTS, ONE, model, model, ReviseSettings(2), 17)
    ended = Counter([record.prompt.id for record in outcome.records] + [reject.id for reject in outcome.rejects])
    assert ended == Counter(prompt.id for prompt in PROMPTS)
    assert {reject.reason for reject in outcome.rejects} <= {"timeout"}


def test_a_lost_judgement_rejects_its_pair_and_is_never_a_tie() -> None:
    pairs = [CandidatePair(prompt, f"one {prompt.id}", f"two {prompt.id}", "test") for prompt in PROMPTS]
    numbers = iter(range(1000))
    model: Model = Losing(writer(), lambda _: next(numbers) == 9)
    outcome = judge(pairs, TWO, model, JudgeSettings(), 17)
    (reject,) = outcome.rejects
    assert (reject.id, reject.reason) == (pairs[2].id, "timeout")
    assert reject.detail == "1 of 4 judgements: no whole reply within 5 s, after 5 tries"
    assert len(outcome.records) == 5


def test_the_lineage_says_how_the_judge_was_read() -> None:
    pair = CandidatePair(PROMPTS[0], "one", "two", "test")
    mixed: Model = TwoWays()
    (record,) = judge([pair], ONE, mixed, JudgeSettings(), 17).records
    assert record.lineage.judged_by == "parsed text, structured output"
    (record,) = judge([pair], ONE, writer(), JudgeSettings(), 17).records
    assert record.lineage.judged_by == "log-probabilities"


def samples(prompts: Sequence[Prompt], n: int, lost: set[int]) -> tuple[int, list[str], Counter[str]]:
    numbers = iter(range(1000))
    model: Model = Losing(writer(), lambda _: next(numbers) in lost)
    outcome = from_samples(prompts, model, n, Sampling(), 17)
    return len(outcome.records), [f"{r.reason}: {r.detail}" for r in outcome.rejects], outcome.notes


def test_a_lost_sample_leaves_the_pairs_of_the_others() -> None:
    """Three samples of one prompt make three pairs; with one of them lost, one."""
    assert samples(PROMPTS[:1], 3, set()) == (3, [], Counter())
    assert samples(PROMPTS[:1], 3, {1}) == (1, [], Counter({"answer: failed": 1}))


def test_a_prompt_that_has_no_pair_because_of_a_lost_sample_says_so() -> None:
    pairs, rejects, _ = samples(PROMPTS[:2], 2, {3})
    assert pairs == 1
    assert rejects == ["timeout: 1 of 2 samples: no whole reply within 5 s, after 5 tries"]


def test_a_lost_score_ends_the_work_because_every_one_is_needed() -> None:
    model: Model = Losing(writer(), lambda _: True)
    with pytest.raises(CaiError, match=r"model 'scripted': timeout: .* the same command tries again"):
        score([Rated(PROMPTS[0], "Hi.", HARM)], model, 17)
    assert all_told(model, [1, 2]) == [1, 2]
