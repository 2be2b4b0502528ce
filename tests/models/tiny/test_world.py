"""The small world: its size, its rules, and that what is held out was never seen."""

import re
from collections import Counter

import pytest

from cai.models.tiny import phrasing
from cai.models.tiny.corpus import lesson
from cai.models.tiny.oracle import find_ask
from cai.models.tiny.world import ACTIONS, CLASSES, CLAUSES, SPLITS, Ask, Thing, asks, asks_of, prompts, things


def test_the_world_is_large_enough_to_hold_combinations_out() -> None:
    assert len(ACTIONS) + len(CLAUSES) >= 40
    assert len(things()) >= 100
    assert len(asks()) >= 1500
    assert {ask.label for ask in asks()} == set(CLASSES)


def test_no_part_decides_the_class_alone() -> None:
    """The same verb, and the same thing, occur in harmless and in harmful requests."""
    by_verb = {verb: {a.label for a in asks() if a.verb == verb} for verb in ACTIONS}
    shared = [verb for verb, labels in by_verb.items() if "harmful" in labels and len(labels) > 1]
    assert len(shared) >= len(ACTIONS) * 0.9, by_verb
    others = [t for t in things() if t.kind == "others"]
    for thing in others:
        assert {"benign", "harmful"} <= {a.label for a in asks() if a.thing == thing}, thing


def test_classes_follow_from_the_rules() -> None:
    weeds, neighbour = Thing("the weeds", "pest", False, "the garden"), Thing("the neighbour", "person", False, "x")
    assert Ask(weeds, "kick").label == "borderline"
    assert Ask(neighbour, "kick").label == "harmful"
    assert Ask(neighbour, "greet").label == "benign"
    assert Ask(neighbour, "greet", purpose="to ruin the party").label == "harmful"
    assert Ask(weeds, clause="when {} will be lost").label == "unknowable"
    assert Ask(weeds, clause="where {} is kept").label == "benign"


def test_splits_share_every_part_and_no_combination() -> None:
    combinations = {split: {ask.combination for ask in asks_of(split)} for split in SPLITS}
    assert sum(map(len, combinations.values())) == len(set().union(*combinations.values()))
    for split in ("align", "tune", "test"):
        assert {a.thing for a in asks_of(split)} <= {a.thing for a in asks_of("pretrain")}
        assert {a.verb for a in asks_of(split)} <= {a.verb for a in asks_of("pretrain")}
    assert sum(map(len, map(asks_of, SPLITS))) == len(asks())


def test_phrasings_are_many_and_disjoint_between_splits() -> None:
    assert min(len(phrasing.SERVE), len(phrasing.REFUSE), len(phrasing.IGNORE), len(phrasing.ASSERT)) >= 6
    for words in (phrasing.critiques, phrasing.revisions, phrasing.preferences):
        for family in phrasing.FAMILIES:
            by_split = [set(words(family, split)) for split in SPLITS]
            assert len(set().union(*by_split)) >= 12 and all(by_split), (words, family)
            assert sum(map(len, by_split)) == len(set().union(*by_split))
    requests = [set(phrasing.request_phrasings(split)) for split in SPLITS]
    assert all(len(frames) >= 9 for frames in requests)
    assert sum(map(len, requests)) == len(set().union(*requests))


def test_prompts_are_distinct_balanced_and_from_their_own_split() -> None:
    drawn = prompts("test", 220, seed=3)
    assert len({prompt.id for prompt in drawn}) == 880
    assert Counter(prompt.source for prompt in drawn) == {f"tiny/test/{label}": 220 for label in CLASSES}
    own = {ask.combination for ask in asks_of("test")}
    for prompt in drawn:
        ask = find_ask(prompt.messages[0].content)
        assert ask is not None and ask.combination in own and prompt.source.endswith(ask.label)


@pytest.mark.parametrize("mix", ["first", "last"])
def test_no_lesson_of_the_base_shows_a_held_out_combination(mix: str) -> None:
    seen = {ask.combination for ask in asks_of("pretrain")}
    held_out = sorted({ask.combination for ask in asks() if ask.combination not in seen})
    shown = re.compile(rf"\b({'|'.join(map(re.escape, held_out))})(?!['\w])")
    for seed in range(3000):
        text = lesson(seed, mix=mix).messages[0].content
        if text.startswith(phrasing.ECHO.format("")):
            assert shown.search(text) is None, text
            continue
        request = text.split("Request:\n")[1].split("\n")[0] if "Request:\n" in text else text
        request = re.sub(r" (Would that hurt anyone|Can anyone know that)\?$", "", request)
        ask = find_ask(request.replace("Does it hurt anyone to", "how to"))
        assert ask is not None and ask.combination in seen, text
