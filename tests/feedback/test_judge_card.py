"""A judge's card: figures by hand, what a rule without judgement gets beside them, and what must hold for any judge."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isnan, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.model import Constitution, Principle
from cai.evaluate.card_page import card_as_json
from cai.feedback.asking import Reasoning
from cai.feedback.judge import JudgeSettings
from cai.feedback.judge_card import LEAST_FOR_TEMPERATURE, Judged, Known, calibrate, judge_card, measure, shortfalls
from cai.models.protocol import ChoiceRequest, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import from_line, new_prompt, to_line
from cai.seeds import derive, uniform
from cai.statistics import tempered
from tests.feedback.test_judge import BRIEF, FRAME, HARM, TWO, judging


def row(n: int, p_first: float, p_second: float, longer_by: int = 0, **more: object) -> Judged:
    p = (p_first + p_second) / 2
    return Judged(f"pair {n}", "", p, p_first, p_second, "preferred", longer_by, **more)  # type: ignore[arg-type]


def known(n: int, subset: str = "", principles: tuple[str, ...] = ()) -> Known:
    return Known(new_prompt(f"question {n}"), f"good {n}", f"bad answer {n}", subset, principles)


def prefers_good(p: float) -> ScriptedModel:
    return judging(lambda first, *_: p if first.startswith("good") else 1 - p)


def test_a_card_by_hand() -> None:
    """Four pairs: right in both orders; right, but only when shown first; wrong in both; and one exactly undecided.

    Right: 2 of 4. Shown first right: rows 0 and 1, shown second: row 0. The same answer in both orders: rows 0 and 2.
    Verdicts that name an answer: 6. They name what stood first in row 0 first, row 1 first and second, row 2 second:
    4 of 6. The longer answer is the better one in row 0, in row 1 neither is longer: 1.5 of 4.
    """
    rows = [row(0, 0.9, 0.7, 5), row(1, 0.8, 0.4), row(2, 0.2, 0.1, -3), row(3, 0.5, 0.5, -4)]
    rows[1] = replace(rows[1], kind="tie")
    card = judge_card(rows, {"timeout": 1, "broken judgement": 2})
    assert (card.pairs, card.judged, card.unjudged) == (7, 4, pytest.approx(3 / 7))
    assert (card.accuracy.share, card.accuracy.n) == (0.5, 4)
    assert (card.shown_first, card.shown_second, card.both_orders.share) == (0.5, 0.25, 0.25)
    assert card.consistency.share == 0.5
    assert (card.first_position.share, card.first_position.n) == (pytest.approx(4 / 6), 6)
    assert (card.ties, card.contradictions, card.longer_wins) == (0.25, 0.0, 0.375)
    assert list(card.rejects) == ["broken judgement", "timeout"]


def test_sureness_by_hand() -> None:
    """p 0.8, 0.6, 0.15 of the better answer. Brier: (0.04 + 0.16 + 0.7225) / 3 = 0.3075.

    Better answers at 0.8, 0.6, 0.15 against worse ones at 0.2, 0.4, 0.85: 0.8 and 0.6 beat two each, 0.15 none: 4 of 9.
    Sure of 0.8, 0.6 and 0.85, right, right and wrong: gaps 0.2, 0.4 and 0.85, so 1.45 / 3 off.
    """
    card = judge_card([row(0, 0.8, 0.8), row(1, 0.6, 0.6), row(2, 0.15, 0.15)], {})
    assert card.brier == pytest.approx(0.3075)
    assert card.auroc == pytest.approx(4 / 9)
    assert card.calibration_error == pytest.approx(1.45 / 3)
    assert [(part.n, part.frequency) for part in card.reliability] == [(1, 1.0), (1, 1.0), (1, 0.0)]


def test_length_and_probability_by_hand() -> None:
    """Ranks of length 1, 2, 3 against ranks of probability 1, 3, 2: 1 - 6·(0 + 1 + 1) / (3·8) = 0.5."""
    card = judge_card([row(0, 0.2, 0.2, -5), row(1, 0.9, 0.9, 0), row(2, 0.6, 0.6, 30)], {})
    assert card.length_correlation == pytest.approx(0.5)


def test_a_judge_that_only_follows_the_position_knows_nothing() -> None:
    """Sure of 0.9 in either order, it comes to exactly 0.5: right about nothing, and κ is 0, not an opposition."""
    card = judge_card([replace(row(n, 0.9, 0.1), kind="contradiction") for n in range(40)], {})
    assert (card.accuracy.share, card.kappa, card.auroc) == (0.0, 0.0, 0.5)
    assert (card.first_position.share, card.consistency.share, card.contradictions) == (1.0, 0.0, 1.0)
    assert card.calibration_error == 0.0


def test_a_judge_without_any_opinion_favours_no_position() -> None:
    card = judge_card([row(n, 0.5, 0.5) for n in range(40)], {})
    assert (card.first_position.share, card.first_position.n) == (0.5, 0)
    assert (card.kappa, card.consistency.share) == (0.0, 0.0)


def test_kappa_is_1_for_a_judge_that_knows_and_minus_1_for_one_that_knows_the_opposite() -> None:
    assert judge_card([row(n, 0.9, 0.8) for n in range(40)], {}).kappa == 1.0
    assert judge_card([row(n, 0.1, 0.2) for n in range(40)], {}).kappa == pytest.approx(-1.0, abs=0.1)


SHARES = st.floats(0, 1)
EXACT = st.integers(0, 1024).map(lambda n: n / 1024)
"""1 - p is exact, so that telling of the other answer rounds nothing."""


@given(st.lists(st.tuples(EXACT, EXACT), min_size=1, max_size=20))
def test_a_card_does_not_favour_a_label(told: list[tuple[float, float]]) -> None:
    """The same verdicts about labels that are all the other way round: what was right is wrong, the rest stays."""
    rows = [row(n, *both, longer_by=n % 3 - 1) for n, both in enumerate(told)]
    turned = [
        replace(r, p=1 - r.p, p_first=1 - r.p_second, p_second=1 - r.p_first, longer_by=-r.longer_by) for r in rows
    ]
    card, other = judge_card(rows, {}), judge_card(turned, {})
    undecided = sum(r.p == 0.5 for r in rows) / len(rows)
    assert card.accuracy.share + other.accuracy.share + undecided == pytest.approx(1)
    assert card.auroc + other.auroc == pytest.approx(1)
    assert card.longer_wins + other.longer_wins == pytest.approx(1)
    assert (card.consistency, card.first_position) == (other.consistency, other.first_position)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=20))
def test_any_card_is_json_and_its_shares_lie_in_their_intervals(told: list[tuple[float, float]]) -> None:
    card = judge_card([row(n, *both) for n, both in enumerate(told)], {})
    text = json.dumps(card_as_json(card, "judge", "data"), allow_nan=False)
    assert json.loads(text)["judged"] == len(told)
    for share in (card.accuracy, card.both_orders, card.consistency, card.first_position):
        assert 0 <= share.low <= share.share <= share.high <= 1


def test_a_card_of_one_pair_says_null_for_what_one_pair_cannot_tell() -> None:
    told = card_as_json(judge_card([row(0, 0.9, 0.8)], {}), "judge", "data")
    assert (told["kappa"], told["length_correlation"], told["calibration"]) == (None, None, None)
    assert told["schema"] == 1


def test_pairs_are_judged_as_a_run_would_and_told_of_the_better_answer() -> None:
    outcome = measure([known(n) for n in range(30)], TWO, prefers_good(0.8), JudgeSettings(), 17)
    assert {(round(r.p, 9), round(r.p_first, 9), round(r.p_second, 9), r.kind) for r in outcome.records} == {
        (0.8, 0.8, 0.8, "preferred")
    }
    assert {tuple(v.principle_id for v in r.verdicts) for r in outcome.records} == {("brief", "no-harm")}
    assert all(v.p == pytest.approx(0.8) for r in outcome.records for v in r.verdicts)
    assert {r.longer_by for r in outcome.records} == {len("good ") - len("bad answer ")}
    assert [from_line(Judged, to_line(r)) for r in outcome.records] == outcome.records


def test_verdicts_are_about_the_better_answer_whichever_the_judge_prefers() -> None:
    right = measure([known(0)], TWO, prefers_good(0.8), JudgeSettings(), 17).records[0]
    wrong = measure([known(0)], TWO, prefers_good(0.2), JudgeSettings(), 17).records[0]
    assert (right.p, wrong.p) == (pytest.approx(0.8), pytest.approx(0.2))
    assert all(v.p == pytest.approx(0.2) for v in wrong.verdicts)


def test_the_same_two_answers_with_the_other_label_get_the_same_verdict() -> None:
    pair = known(0)
    other = replace(pair, better=pair.worse, worse=pair.better)
    [one], [two] = (measure([each], TWO, prefers_good(0.8), JudgeSettings(), 17).records for each in (pair, other))
    assert one.id == two.id
    assert one.p == pytest.approx(1 - two.p)
    assert one.verdicts[0].turned().p == pytest.approx(two.verdicts[0].p)


def test_a_pair_is_judged_by_the_principles_that_its_label_is_about() -> None:
    pairs = [known(0, "harm", ("no-harm",)), known(1, "", ()), known(2, "brevity", ("brief",))]
    outcome = measure(pairs, TWO, prefers_good(0.8), JudgeSettings(), 17)
    asked = {r.subset: [v.principle_id for v in r.verdicts] for r in outcome.records}
    assert asked == {"harm": ["no-harm"], "": ["brief", "no-harm"], "brevity": ["brief"]}
    card = judge_card(outcome.records, {})
    assert [(part.name, part.accuracy.n) for part in card.subsets] == [("", 1), ("brevity", 1), ("harm", 1)]
    assert [(part.name, part.accuracy.n) for part in card.principles] == [("brief", 2), ("no-harm", 2)]
    assert judge_card(outcome.records[:1], {}).subsets == ()


def test_every_pair_is_judged_or_a_reject_of_this_stage() -> None:
    def choices(request: ChoiceRequest) -> Sequence[float]:
        shown = FRAME.search(request.messages[-1].content)
        assert shown
        return () if shown["a"].endswith("1") else (log(0.6), log(0.4))

    pairs = [known(0), known(1), known(2), known(0), Known(new_prompt("q"), "same", " same ")]
    outcome = measure(pairs, TWO, ScriptedModel([], choices), JudgeSettings(), 17)
    assert [r.id for r in outcome.records] == [pairs[0].id, pairs[2].id]
    assert sorted((r.stage, r.reason) for r in outcome.rejects) == [
        ("judge", "broken judgement"),
        ("judge", "duplicate input"),
        ("judge", "identical answers"),
    ]


def test_an_answer_that_says_nothing_is_known_to_be_worse_without_the_judge() -> None:
    [judged] = measure([Known(new_prompt("q"), "Yes.", "…")], TWO, ScriptedModel([]), JudgeSettings(), 17).records
    assert (judged.p, judged.p_first, judged.p_second, judged.verdicts) == (1.0, 1.0, 1.0, ())


def test_a_card_measures_what_a_judge_that_thinks_believes_and_not_its_bounded_label() -> None:
    shown: Callable[[ChoiceRequest], Sequence[float]] = lambda r: (  # noqa: E731
        (log(0.9), log(0.1)) if "A [" in r.messages[0].content and _good_first(r) else (log(0.1), log(0.9))
    )
    thinking = JudgeSettings(reasoning=Reasoning(1, Sampling(max_new_tokens=9)))
    [judged] = measure([known(0)], TWO, ScriptedModel(lambda _: "Hm.", shown), thinking, 17).records
    assert judged.p == pytest.approx(0.9)
    assert judged.verdicts[0].reasons == ("Hm.", "Hm.")


def _good_first(request: ChoiceRequest) -> bool:
    text = request.messages[0].content
    return text.index("good 0") < text.index("bad answer 0")


def many(n: int, temperature: float) -> list[Judged]:
    """Pairs whose judge would be calibrated, if it were not surer than it is right by this temperature."""
    rows = []
    for i in range(n):
        true = 0.5 + 0.49 * uniform(derive("true", i), 0)
        p = tempered(true, 1 / temperature)
        right = uniform(derive("right", i), 0) < true
        rows.append(row(i, *(2 * [p if right else 1 - p])))
    return rows


def test_the_temperature_of_a_judge_that_is_too_sure_is_found_and_mends_it() -> None:
    found = calibrate(many(3000, 2.0))
    assert found is not None
    assert found.temperature == pytest.approx(2.0, abs=0.2)
    assert found.tempered.error < 0.05 < found.raw.error
    assert found.tempered.brier < found.raw.brier
    assert found.tempered.auroc == pytest.approx(found.raw.auroc, abs=1e-9), "no pair changes its place"


def test_a_temperature_is_not_fitted_to_noise() -> None:
    assert calibrate(many(2 * LEAST_FOR_TEMPERATURE - 1, 2.0)) is None
    assert calibrate(many(4 * LEAST_FOR_TEMPERATURE, 2.0)) is not None


def test_the_halves_hang_on_the_pairs_and_not_on_their_order() -> None:
    rows = many(300, 2.0)
    one, other = calibrate(rows), calibrate(rows[::-1])
    assert one is not None and other is not None
    assert one.temperature == pytest.approx(other.temperature)
    assert one.n == other.n


def test_a_judge_knows_its_own_answers_by_any_of_its_names() -> None:
    """Of three pairs with one answer of its own it prefers its own in two, where it is better in one."""
    rows = [
        row(0, 0.9, 0.9, better_by="small", worse_by="large"),
        row(1, 0.2, 0.2, better_by="large", worse_by="teacher"),
        row(2, 0.8, 0.8, better_by="large", worse_by="small"),
        row(3, 0.8, 0.8, better_by="small", worse_by="teacher"),
        row(4, 0.8, 0.8),
    ]
    own = judge_card(rows, {}, ("teacher", "small")).own
    assert own is not None
    assert (own.n, own.preferred, own.better) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert own.gap == pytest.approx(1 / 3)
    assert judge_card(rows, {}).own is None


def test_people_are_held_against_each_other_whoever_came_first() -> None:
    """Two people: they agree on three of four pairs, so the shares of agreement are 0.75 either way round."""
    people = [(True, True), (True, True), (True, False), (False, False)]
    card = judge_card([row(n, 0.9, 0.9, people=both) for n, both in enumerate(people)], {})
    turned = judge_card([row(n, 0.9, 0.9, people=both[::-1]) for n, both in enumerate(people)], {})
    assert card.kappa_people == turned.kappa_people
    assert card.kappa_people is not None
    assert 0 < card.kappa_people < 1
    assert judge_card([row(0, 0.9, 0.9, people=(True,))], {}).kappa_people is None


def test_what_a_card_lacks_is_told_with_its_interval_and_only_that() -> None:
    card = judge_card([row(n, *(2 * [0.9 if n % 4 else 0.1])) for n in range(40)], {"timeout": 10})
    assert shortfalls(card, {"accuracy": 0.75, "unjudged": 0.2, "calibration_error": 0.2}) == []
    told = shortfalls(card, {"accuracy": 0.9, "unjudged": 0.1, "auroc": 0.5, "above_length": 0.3})
    assert told == [
        "accuracy is 0.750 (0.598 to 0.858), and at least 0.9 is required",
        "unjudged is 0.200, and at most 0.1 is required",
        "above_length is 0.250, and at least 0.3 is required",
    ]


def test_a_figure_that_is_none_meets_no_requirement() -> None:
    card = judge_card([row(0, 0.9, 0.9)], {})
    assert isnan(card.kappa)
    assert shortfalls(card, {"kappa": -1}) == ["kappa is nan, and at least -1 is required"]


def test_each_principle_alone_is_measured_on_what_it_was_asked() -> None:
    """brief is right and sure, no-harm wrong: together, by weight 2 for harm, the judge is wrong."""

    def weighs(first: str, _: str, asked: str) -> float:
        right = asked == BRIEF.preference
        return 0.9 if first.startswith("good") == right else 0.1

    outcome = measure([known(n) for n in range(8)], TWO, judging(weighs), JudgeSettings(), 17)
    card = judge_card(outcome.records, {})
    assert card.accuracy.share == 0.0
    assert {part.name: part.accuracy.share for part in card.principles} == {"brief": 1.0, "no-harm": 0.0}
    assert HARM.weight == 2


def test_drawn_principles_weigh_alike_in_a_card_too() -> None:
    """As `judge` pools them: with three equal voices 0.9, 0.9 and 0.1 the pooled p is 0.633, whatever the weights."""
    principles = tuple(Principle(f"p{i}", "c", "r", f"way {i}?", weight=1 + 9 * (i == 2)) for i in range(3))

    def weighs(first: str, _: str, asked: str) -> float:
        p = 0.1 if asked == "way 2?" else 0.9
        return p if first.startswith("good") else 1 - p

    settings = JudgeSettings(principles=3)
    [judged] = measure([known(0)], Constitution("c", "1", "", principles), judging(weighs), settings, 17).records
    assert judged.p == pytest.approx((0.9 + 0.9 + 0.1) / 3)
