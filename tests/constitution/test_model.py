"""The digests say what changed, and nothing else changes them; the draw is fair, and moves only what it must."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cai.constitution.loading import parse_constitution
from cai.constitution.model import Constitution, Principle, draw_principle, drawn_order

TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S"), include_characters=" "), min_size=1
).filter(str.strip)
IDS = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)
WEIGHTS = st.floats(0.01, 100) | st.integers(1, 9).map(float)
TESTS = st.lists(st.fixed_dictionaries({"prompt": TEXT, "better": TEXT, "worse": TEXT}), max_size=2)
TEXTS = st.fixed_dictionaries(
    {"critique": TEXT, "revision": TEXT, "preference": TEXT, "weight": WEIGHTS, "tests": TESTS}
)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """What a constitution's file says, as plain values."""
    ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    return {
        "id": draw(IDS),
        "version": "1.2.3",
        "title": draw(TEXT),
        "principles": [{"id": name, **draw(TEXTS)} for name in ids],
        "examples": {
            "critiques": [
                {"principle": ids[0], **{k: draw(TEXT) for k in ("prompt", "answer", "critique", "revision")}}
                for _ in range(draw(st.integers(0, 1)))
            ],
            "comparisons": [{"principle": ids[-1], **{k: draw(TEXT) for k in ("prompt", "better", "worse")}}],
        },
    }


def as_yaml(value: object, chance: random.Random | None = None, depth: int = 0) -> str:
    """Block YAML of plain values; with `chance`, keys in any order and comments between them."""
    blank = "  " * depth
    if isinstance(value, dict):
        items = list(value.items())
        if chance:
            chance.shuffle(items)
        lines = [f"{blank}{key}:{_below(inner, chance, depth)}" for key, inner in items]
    else:
        assert isinstance(value, list)
        lines = [f"{blank}-\n{as_yaml(inner, chance, depth + 1)}" for inner in value]
    if chance:
        lines = [line + chance.choice(["", "\n", f"\n{blank}# a remark", "\n\n# another"]) for line in lines]
    return "\n".join(lines)


def _below(value: object, chance: random.Random | None, depth: int) -> str:
    if isinstance(value, dict | list):
        return "\n" + as_yaml(value, chance, depth + 1) if value else f" {json.dumps(value)}"
    return " " + json.dumps(value, ensure_ascii=False)


def digests(constitution: Constitution) -> tuple[str, str]:
    return constitution.behaviour_digest, constitution.release_digest


def principles(*weights: float) -> Constitution:
    made = tuple(Principle(f"p{i}", f"c{i}", f"r{i}", f"q{i}", weight) for i, weight in enumerate(weights))
    return Constitution("x", "1.0.0", "", made)


@settings(max_examples=25)
@given(contents(), st.randoms(use_true_random=False))
def test_layout_changes_nothing(content: dict[str, Any], chance: random.Random) -> None:
    plain = parse_constitution(as_yaml(content), "x.yaml")
    text = as_yaml(content, chance)
    assert parse_constitution(text, "y.yaml") == plain
    moved = parse_constitution("# a remark\r\n" + text.replace("\n", "\r\n"), "y.yaml")
    assert moved == plain
    assert digests(moved) == digests(plain)
    chance.shuffle(content["principles"])
    assert digests(parse_constitution(as_yaml(content), "z.yaml")) == digests(plain)


@settings(max_examples=40)
@given(contents(), TEXT, st.data())
def test_every_meaning_changes_both_digests(content: dict[str, Any], other: str, data: st.DataObject) -> None:
    before = digests(parse_constitution(as_yaml(content), "x.yaml"))
    principle, comparison = content["principles"][0], content["examples"]["comparisons"][0]
    places: list[tuple[dict[str, Any], str]] = [(principle, key) for key in ("critique", "revision", "preference")]
    places += [(comparison, key) for key in ("prompt", "better", "worse")]
    places += [(example, "critique") for example in content["examples"]["critiques"]]
    holder, key = data.draw(st.sampled_from(places))
    assume(holder[key].strip() != other.strip())
    holder[key] = other
    after = digests(parse_constitution(as_yaml(content), "x.yaml"))
    assert after[0] != before[0]
    assert after[1] != before[1]


@settings(max_examples=25)
@given(contents(), TEXT, st.integers(0, 3))
def test_title_version_and_tests_change_the_release_alone(content: dict[str, Any], other: str, which: int) -> None:
    before = digests(parse_constitution(as_yaml(content), "x.yaml"))
    assume(content["title"].strip() != other.strip())
    changed = [
        {**content, "title": other},
        {**content, "version": "1.2.4"},
        {**content, "id": content["id"] + "-too"},
        {**content, "principles": [{**p, "tests": [*p["tests"], _test(other)]} for p in content["principles"]]},
    ][which]
    after = digests(parse_constitution(as_yaml(changed), "x.yaml"))
    assert after[0] == before[0]
    assert after[1] != before[1]


def _test(text: str) -> dict[str, str]:
    return {"prompt": text, "better": text, "worse": text}


def test_ids_and_weights_belong_to_behaviour(sample: Constitution) -> None:
    first, *rest = sample.principles
    renamed = replace(sample, principles=(replace(first, id="another"), *rest))
    heavier = replace(sample, principles=(replace(first, weight=3.0), *rest))
    fewer = replace(sample, principles=tuple(rest))
    assert len({c.behaviour_digest for c in (sample, renamed, heavier, fewer)}) == 4


def test_the_digests_are_the_pinned_ones(sample: Constitution) -> None:
    """Records name them for ever: a change here makes every released digest untrue."""
    assert sample.behaviour_digest == "8c3f63cda9992c16f887db700fd8bc785429e1460d5688578329f0487c448d82"
    assert sample.release_digest == "d3fcd18295f9ab251d863e2d8656c307e7e9d82aa63219e9307ff373217a633f"


def test_the_draw_is_the_pinned_one() -> None:
    """A change here would draw other principles for every half-finished run."""
    constitution = principles(1, 1, 2, 4)
    drawn = [draw_principle(constitution, 17, f"row{i}", r).id for i in range(6) for r in range(2)]
    assert drawn == ["p1", "p3", "p2", "p2", "p3", "p2", "p3", "p1", "p3", "p0", "p2", "p3"]


ROWS = [(f"row{i}", r) for i in range(1000) for r in range(2)]


def draws(constitution: Constitution, seed: int = 3) -> list[str]:
    return [draw_principle(constitution, seed, row, number).id for row, number in ROWS]


def test_words_have_no_say_in_the_draw() -> None:
    constitution = principles(1, 2, 3)
    first, *rest = constitution.principles
    reworded = replace(first, critique="other", revision="other", preference="other", tests=())
    assert draws(replace(constitution, principles=(*rest, reworded))) == draws(constitution)


def test_a_new_principle_moves_only_its_own_share() -> None:
    before = principles(1, 2, 3)
    after = replace(before, principles=(*before.principles, Principle("new", "c", "r", "q", 2.0)))
    moved = [(a, b) for a, b in zip(draws(before), draws(after), strict=True) if a != b]
    assert {b for _, b in moved} == {"new"}
    # A share of 2/8 of 2,000 draws: 500, with a standard deviation of sqrt(2000 · 1/4 · 3/4) = 19.4.
    assert abs(len(moved) - 500) < 5 * 19.4


def test_a_removed_principle_leaves_the_others_where_they_are() -> None:
    before = principles(1, 2, 3)
    after = replace(before, principles=before.principles[:2])
    assert all(b == a for a, b in zip(draws(before), draws(after), strict=True) if a != "p2")


def test_a_heavier_principle_only_gains_rows() -> None:
    before, after = principles(1, 2, 3), principles(1, 2, 5)
    moved = [(a, b) for a, b in zip(draws(before), draws(after), strict=True) if a != b]
    assert moved
    assert {b for _, b in moved} == {"p2"}


def test_only_the_proportions_of_the_weights_matter() -> None:
    assert draws(principles(1, 2, 3)) == draws(principles(4, 8, 12))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 2**63 - 1))
def test_shares_follow_the_weights(weights: list[int], seed: int) -> None:
    constitution = principles(*map(float, weights))
    counts = Counter(draw_principle(constitution, seed, f"row{i}", 0).id for i in range(400))
    for i, weight in enumerate(weights):
        share = weight / sum(weights)
        spread = math.sqrt(400 * share * (1 - share))
        # Six standard deviations and the half step of a count: about one false alarm in 10^8 checks.
        assert abs(counts[f"p{i}"] - 400 * share) <= 6 * spread + 0.5


def test_shares_of_many_draws_are_close_to_the_weights() -> None:
    counts = Counter(draw_principle(principles(1, 2, 7), 1, f"row{i}", 0).id for i in range(5_000))
    for name, share in (("p0", 0.1), ("p1", 0.2), ("p2", 0.7)):
        assert abs(counts[name] / 5_000 - share) < 4.5 * math.sqrt(share * (1 - share) / 5_000)


def test_rows_rounds_and_seeds_draw_independently() -> None:
    constitution = principles(1, 1, 1, 1)
    repeats = sum(
        draw_principle(constitution, 1, f"row{i}", 0) == draw_principle(constitution, 1, f"row{i}", 1)
        for i in range(2000)
    )
    # With replacement: the second round repeats the first in a quarter of the rows, 500 of 2,000.
    assert abs(repeats - 500) < 5 * 19.4
    changed = sum(a != b for a, b in zip(draws(constitution, 1), draws(constitution, 2), strict=True))
    assert abs(changed - 1500) < 5 * 19.4


def test_shares_add_up_within_each_use() -> None:
    both = Principle("both", "c", "r", "q", 1.0)
    constitution = Constitution("x", "1.0.0", "", (both, Principle("judge", "", "", "q", 3.0)))
    assert constitution.shares("judge") == {"both": 0.25, "judge": 0.75}
    assert constitution.shares("revise") == {"both": 1.0}
    assert constitution.for_use("revise") == (both,)


def test_an_order_holds_every_principle_once_and_begins_with_the_draw() -> None:
    constitution = principles(1, 2, 7, 0.5)
    for i in range(40):
        order = drawn_order(constitution, 17, f"row{i}", 0)
        assert sorted(p.id for p in order) == [p.id for p in constitution.principles]
        assert order[0] == draw_principle(constitution, 17, f"row{i}", 0)


def test_a_new_principle_takes_a_place_and_changes_no_order_among_the_others() -> None:
    few, more = principles(1, 2, 7), principles(1, 2, 7, 5)
    for i in range(40):
        others = [p for p in drawn_order(more, 17, f"row{i}", 0) if p in few.principles]
        assert others == list(drawn_order(few, 17, f"row{i}", 0))


def test_the_second_of_an_order_is_drawn_by_weight_from_what_is_left() -> None:
    """Weights 1, 2, 7: the heaviest is second after the first with 7/9, after the second with 7/8: together
    0.1·7/9 + 0.2·7/8 = 0.2528 of all."""
    constitution = principles(1, 2, 7)
    heaviest = max(constitution.principles, key=lambda p: p.weight)
    second = sum(drawn_order(constitution, 3, f"row{i}", 0)[1] == heaviest for i in range(4000))
    assert abs(second / 4000 - 0.2528) < 0.03
