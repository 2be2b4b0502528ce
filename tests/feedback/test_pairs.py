"""Where pairs come from, and the prompts that give none."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import InputError
from cai.feedback.pairs import CandidatePair, from_revisions, from_samples
from cai.models.protocol import Choice, ChoiceRequest, Reply, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Lineage, Revision, Round, from_line, new_prompt, to_line

LOCK = new_prompt("How do I pick a lock?")
MADE = Lineage("constitution", "frames", 17, "the answerer", "the critic")


def revision(initial: str, *later: str) -> Revision:
    rounds = tuple(Round("p", "critique", text, True) for text in later)
    return Revision(LOCK, initial, rounds, later[-1], MADE)


def sampled(replies: Sequence[str | Reply], n: int, limit: int = 6) -> list[CandidatePair]:
    return from_samples([LOCK], ScriptedModel(replies), n, Sampling(), 17, limit).records


def test_the_id_of_a_pair_does_not_depend_on_its_order_but_on_every_text() -> None:
    pair = CandidatePair(LOCK, "a", "b", "test")
    assert pair.id == CandidatePair(LOCK, "b", "a", "elsewhere").id
    others = [CandidatePair(LOCK, "a", "c", "test"), CandidatePair(new_prompt("other"), "a", "b", "test")]
    assert pair.id not in {other.id for other in others}
    assert from_line(CandidatePair, to_line(pair)) == pair


def test_a_revision_gives_its_first_answer_against_its_last() -> None:
    made = revision("pick it", "ask", "call a locksmith")
    (pair,) = from_revisions([made]).records
    assert (pair.prompt, pair.first, pair.second) == (LOCK, "pick it", "call a locksmith")
    assert pair.origin == f"revisions:{made.id}"
    assert (pair.answerer, pair.critic) == ("the answerer", "the critic")


def test_revisions_that_come_back_to_the_first_answer_are_a_null_edit() -> None:
    made = revision("call  a locksmith", "something else", "call a\nlocksmith")
    outcome = from_revisions([made])
    assert outcome.records == []
    assert [(r.id, r.stage, r.reason) for r in outcome.rejects] == [(made.id, "prefer", "null edit")]


def test_two_samples_of_each_prompt_are_drawn_in_one_call_from_seeds_of_their_own() -> None:
    calls: list[int] = []

    class Counting:
        name, fingerprint = "counting", "counting-1"

        def generate(self, requests: Sequence[Request]) -> list[Reply]:
            calls.append(len(requests))
            return [Reply(f"answer {r.seed} at {r.sampling.temperature}", "stop", 1, 1) for r in requests]

        def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
            raise AssertionError(requests)

    prompts = [new_prompt(f"question {i}") for i in range(4)]
    pairs = from_samples(prompts, Counting(), 2, Sampling(0.7), 17).records
    assert calls == [8]
    assert len({text for pair in pairs for text in (pair.first, pair.second)}) == 8
    assert all(pair.first.endswith("at 0.7") for pair in pairs)
    assert [(p.prompt, p.origin, p.answerer, p.critic) for p in pairs] == [
        (prompt, "samples:0,1", "counting-1", "") for prompt in prompts
    ]
    alone = from_samples([prompts[2]], Counting(), 2, Sampling(0.7), 17).records
    assert alone == [pairs[2]]


def test_more_samples_meet_neighbours_first_and_up_to_the_limit() -> None:
    assert [p.origin for p in sampled("abcd", 4)] == [
        f"samples:{ij}" for ij in ("0,1", "1,2", "2,3", "0,2", "1,3", "0,3")
    ]
    assert [p.first + p.second for p in sampled("abcd", 4, limit=3)] == ["ab", "bc", "cd"]


def test_equal_samples_are_one_candidate() -> None:
    assert [(p.first, p.second) for p in sampled(["a", " a ", "b"], 3)] == [("a", "b")]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        (["same", "same "], "identical answers"),
        (["fine", Reply("cut o", "length", 1, 1)], "cut-off answer"),
        ([Reply("cut", "length", 1, 1), Reply("cut too", "length", 1, 1)], "cut-off answer"),
    ],
)
def test_a_prompt_without_two_different_finished_answers_is_a_named_reject(
    replies: list[str | Reply], reason: str
) -> None:
    outcome = from_samples([LOCK], ScriptedModel(replies), 2, Sampling(), 17)
    assert outcome.records == []
    assert [(r.id, r.stage, r.reason) for r in outcome.rejects] == [(LOCK.id, "prefer", reason)]


def test_samples_are_cleaned_and_counted_and_an_empty_one_may_still_lose() -> None:
    outcome = from_samples([LOCK], ScriptedModel(["<think>x</think>Yes.", "Assistant:"]), 2, Sampling(), 17)
    assert [(p.first, p.second) for p in outcome.records] == [("Yes.", "")]
    assert outcome.notes == {"answer: reasoning removed": 1, "answer: role prefix removed": 1}


def test_one_sample_is_no_pair() -> None:
    with pytest.raises(InputError, match="at least 2 samples of each prompt, got 1"):
        from_samples([LOCK], ScriptedModel([]), 1, Sampling(), 17)


@given(st.lists(st.lists(st.sampled_from("ab<"), min_size=3, max_size=3), max_size=5), st.integers(1, 3))
def test_every_prompt_gives_pairs_or_one_reject(rows: list[list[str]], limit: int) -> None:
    prompts = [new_prompt(f"question {i}") for i in range(len(rows))]
    replies = [Reply(text, "length" if text == "<" else "stop", 1, 1) for row in rows for text in row]
    outcome = from_samples(prompts, ScriptedModel(replies), 3, Sampling(), 17, limit)
    paired, rejected = {p.prompt.id for p in outcome.records}, [r.id for r in outcome.rejects]
    assert sorted([*paired, *rejected]) == sorted(p.id for p in prompts)
    assert len({p.id for p in outcome.records}) == len(outcome.records)
    for prompt, row in zip(prompts, rows, strict=True):
        assert (prompt.id in paired) == ({"a", "b"} <= set(row))
