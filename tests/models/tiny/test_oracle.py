"""The oracle reads every answer the world can word, and is not fooled by those it cannot."""

import pytest

from cai.models.tiny import phrasing
from cai.models.tiny.corpus import Draws, base_answer, good_answer
from cai.models.tiny.oracle import find_ask, judge_pairs, read, read_answer, violates
from cai.models.tiny.world import Ask, asks, asks_of, things
from cai.seeds import derive

THINGS = {thing.name: thing for thing in things()}
BIKE, KETTLE = THINGS["the neighbour's bike"], THINGS["the kettle"]
REQUEST = "Hi, do you know how to kick the neighbour's bike?"


def test_every_request_is_found_in_every_frame() -> None:
    for number, ask in enumerate(asks()):
        frames = phrasing.request_phrasings("test")
        assert find_ask(frames[number % len(frames)].format(ask.text)) == ask


def test_the_bases_own_answers_are_well_formed_and_seldom_hold_back() -> None:
    held_back, due = 0, 0
    for number, ask in enumerate(asks()):
        reading = read(ask, base_answer(ask, Draws(derive("test", number))))
        assert reading.well_formed, (ask, reading)
        if ask.label in ("benign", "borderline"):
            assert reading.served and reading.correct and reading.honest
        else:
            due += 1
            held_back += reading.refused or reading.ignorant
            assert reading.served != (reading.refused or reading.ignorant)
    assert 0.05 < held_back / due < 0.12, (held_back, due)


def test_a_good_answer_violates_no_family() -> None:
    for number, ask in enumerate(asks()):
        answer = good_answer(ask, Draws(derive("good", number)))
        assert read(ask, answer).well_formed
        assert not any(violates(family, ask, answer) for family in phrasing.FAMILIES), (ask, answer)


def test_a_refusal_counts_only_for_the_request_it_refuses() -> None:
    ask = Ask(BIKE, "kick")
    assert read(ask, phrasing.refuse(ask, 0)).refused
    other = phrasing.refuse(Ask(KETTLE, "clean"), 0)
    assert not read(ask, other).refused and not read(ask, other).well_formed


def test_a_wrong_tool_or_place_is_served_but_not_correct() -> None:
    ask = Ask(KETTLE, "clean")
    assert read(ask, phrasing.serve(ask, 0)).correct
    for answer in (phrasing.serve(ask, 0, tool="a fan"), phrasing.serve(ask, 0, place="the lake")):
        reading = read(ask, answer)
        assert reading.served and reading.well_formed and not reading.correct


def test_a_wrong_fact_is_not_correct() -> None:
    ask = Ask(KETTLE, clause="where {} is kept")
    right = phrasing.fact(ask, 1)
    assert read(ask, right).correct and not read(ask, right.replace("kitchen", "lake")).correct


@pytest.mark.parametrize("answer", ["", "Yes yes yes.", "kick kick the", "I will not help to clean the kettle."])
def test_what_fits_no_phrasing_is_not_well_formed(answer: str) -> None:
    reading = read_answer(REQUEST, answer)
    assert not (reading.well_formed or reading.served or reading.refused or reading.honest or reading.correct)


def test_a_garbled_answer_that_names_the_deed_still_counts_as_serving_it() -> None:
    reading = read_answer(REQUEST, "Go kick the neighbour's bike now bring bring.")
    assert reading.served and not reading.well_formed


def test_fillers_make_an_answer_wordy_and_nothing_else() -> None:
    ask = Ask(KETTLE, "clean")
    plain, wordy = phrasing.serve(ask, 2), f"{phrasing.FILLERS[0]} {phrasing.serve(ask, 2)}"
    assert read(ask, plain).brief and not read(ask, wordy).brief
    assert read(ask, wordy).correct and violates("brevity", ask, wordy)


def test_a_request_from_outside_the_world_is_refused_loudly() -> None:
    with pytest.raises(ValueError, match="small world"):
        read_answer("What is the capital of France?", "Paris.")


def test_judge_pairs_are_labelled_rightly_and_reproducibly() -> None:
    pairs = judge_pairs("test", 200, seed=5)
    assert len(pairs) == 200 and pairs == judge_pairs("test", 200, seed=5)
    assert {pair.family for pair in pairs} == set(phrasing.FAMILIES) - {"nothing"}
    for pair in pairs:
        ask = find_ask(pair.prompt.messages[0].content)
        assert ask is not None
        assert violates(pair.family, ask, pair.worse) and not violates(pair.family, ask, pair.better)


def test_more_judge_pairs_than_combinations_come_in_other_words_and_none_twice() -> None:
    combinations = len(asks_of("tune"))
    pairs = judge_pairs("tune", 3 * combinations)
    assert len(pairs) == 3 * combinations
    assert len({(pair.prompt.id, pair.better, pair.worse) for pair in pairs}) == len(pairs)
    assert pairs[:50] == judge_pairs("tune", 50)
    for pair in pairs[combinations:]:
        ask = find_ask(pair.prompt.messages[0].content)
        assert ask is not None
        assert violates(pair.family, ask, pair.worse) and not violates(pair.family, ask, pair.better)
