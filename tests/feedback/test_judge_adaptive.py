"""Judging by few principles, by as many as it takes, after a thought, or less sure: what stays true in every mode."""

import re
from collections.abc import Callable, Sequence
from math import inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.frames import LABELS, frames_digest
from cai.constitution.model import Constitution, Principle, drawn_order
from cai.feedback.asking import Reasoning
from cai.feedback.judge import JudgeSettings, decide, judge
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair
from cai.models.protocol import ChoiceRequest, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Preference, Verdict, content_id, new_prompt
from cai.seeds import derive

PRINCIPLES = tuple(Principle(f"p{i}", "c", "r", f"Which is better in way {i}?", weight=1 + i) for i in range(5))
FIVE = Constitution("five", "1.0.0", "", PRINCIPLES, path="five.yaml")
FRAME = re.compile(
    r"\n\n(?P<asked>[^\n]*)\n\nAnswer A \[(?P<nonce>\w+)\]:\n(?P<a>.*?)\n\[(?P=nonce)\]\n\n"
    r"Answer B \[(?P=nonce)\]:\n(?P<b>.*?)\n\[(?P=nonce)\]\n\n",
    re.DOTALL,
)
THINKING = Reasoning(1, Sampling(max_new_tokens=9))
Weighs = Callable[[str, str, str], float]


def judging(p_of_a: Weighs, spent: list[int] | None = None) -> ScriptedModel:
    """A judge that gives label A this probability for (answer A, answer B, preference text), thinks nothing much, and
    notes how many words it read for each choice."""

    def choices(request: ChoiceRequest) -> Sequence[float]:
        assert request.continuations == LABELS
        shown = FRAME.search(request.messages[0].content)
        assert shown is not None, request.messages[0].content
        if spent is not None:
            spent.append(len(request.messages[0].content.split()))
        p = p_of_a(shown["a"], shown["b"], shown["asked"])
        return [log(q) if q else -inf for q in (p, 1 - p)]

    return ScriptedModel(lambda _: "They differ.", choices)


def pair(n: int, first: str = "good", second: str = "bad") -> CandidatePair:
    return CandidatePair(new_prompt(f"question {n}"), f"{first} {n}", f"{second} {n}", "t")


def sure_of_good(p: float) -> Weighs:
    return lambda first, _, __: p if first.startswith("good") else 1 - p


def outcome_of(pairs: Sequence[CandidatePair], model: ScriptedModel, **settings: object) -> Outcome[Preference]:
    return judge(pairs, FIVE, model, JudgeSettings(**settings), 17)  # type: ignore[arg-type]


@pytest.mark.parametrize(("wanted", "asked"), [(1, 1), (3, 3), (5, 5), (9, 5)])
def test_so_many_principles_are_drawn_for_a_pair_and_none_twice(wanted: int, asked: int) -> None:
    pairs = [pair(n) for n in range(12)]
    records = outcome_of(pairs, judging(sure_of_good(0.9)), principles=wanted).records
    drawn = [[verdict.principle_id for verdict in record.verdicts] for record in records]
    assert drawn == [[p.id for p in drawn_order(FIVE, 17, each.id, 0)[:asked]] for each in pairs]
    assert all(len(set(ids)) == asked for ids in drawn)


def test_drawn_principles_had_their_say_in_the_draw_and_weigh_alike_by_hand() -> None:
    """Weights 1 to 5 are spent in the draw. 0.9 (c = 0.8) and 0.3 (c = 0.4): (0.72 + 0.12) / 1.2 = 0.7."""
    first, second = drawn_order(FIVE, 17, pair(0).id, 0)[:2]

    def weighs(a: str, _: str, asked: str) -> float:
        p = 0.9 if asked == first.preference else 0.3
        return p if a.startswith("good") else 1 - p

    [record] = outcome_of([pair(0)], judging(weighs), principles=2).records
    assert {verdict.principle_id for verdict in record.verdicts} == {first.id, second.id}
    assert record.p_chosen == pytest.approx(0.7)


def test_clear_pairs_are_asked_one_principle_and_contested_ones_all() -> None:
    """Pairs 0 to 4 are clear. Of 5 to 9 both orders name the same answer, but hardly."""
    pairs = [pair(n) for n in range(10)]
    found = outcome_of(
        pairs,
        judging(lambda a, b, c: sure_of_good(0.95 if int(a[-1]) < 5 else 0.65)(a, b, c)),
        certain_at=0.8,
    )
    assert [len(record.verdicts) for record in found.records] == [1] * 5 + [5] * 5
    assert found.notes["principles asked"] == 5 * 1 + 5 * 5
    assert found.notes["principles not needed"] == 5 * 4


def test_certain_means_certain_in_both_orders() -> None:
    """Shown first good has 0.99, shown second 0.7: the mean is 0.845, and the second order is not sure of it."""
    [record] = outcome_of(
        [pair(0)], judging(lambda a, *_: 0.99 if a.startswith("good") else 0.3), certain_at=0.8
    ).records
    assert len(record.verdicts) == 5


def test_an_adaptive_judge_begins_with_the_principles_that_the_row_draws_first() -> None:
    pairs = [pair(n) for n in range(30)]
    records = outcome_of(pairs, judging(sure_of_good(0.95)), certain_at=0.8).records
    assert [r.verdicts[0].principle_id for r in records] == [drawn_order(FIVE, 17, p.id, 0)[0].id for p in pairs]


def test_among_all_principles_weights_still_count_when_they_are_asked_one_by_one() -> None:
    """Asked to the end, it is the same question as all at once."""
    weighs: Weighs = lambda a, _, asked: (derive("w", a, asked) % 1001) / 1000  # noqa: E731
    [one_by_one] = outcome_of([pair(0)], judging(weighs), certain_at=1.0).records
    [at_once] = outcome_of([pair(0)], judging(weighs)).records
    assert len(one_by_one.verdicts) == 5
    assert (one_by_one.chosen, one_by_one.kind) == (at_once.chosen, at_once.kind)
    assert one_by_one.p_chosen == pytest.approx(at_once.p_chosen)


@pytest.mark.parametrize("tokens", [0, 90, 120, 200, 400])
def test_a_token_budget_is_kept_and_the_least_certain_come_first(tokens: int) -> None:
    """Every question has as many words as any other. Asking each pair once is the least; beyond it nothing is spent
    that the budget does not hold, and what is spent goes to the pairs of which the judge was least sure."""
    spent: list[int] = []
    p_of = {n: 0.51 + n / 40 for n in range(8)}
    model = judging(lambda a, b, c: sure_of_good(p_of[int(a[-1])])(a, b, c), spent)
    pairs = [pair(n) for n in range(8)]
    records = outcome_of(pairs, model, certain_at=0.99, tokens_per_pair=tokens).records
    each = spent[0]
    assert set(spent) == {each}
    assert sum(spent) <= max(tokens * 8, 2 * each * 8)
    counts = [len(record.verdicts) for record in records]
    assert counts == sorted(counts, reverse=True), "pair 0 is the least certain"
    room = tokens * 8 - sum(spent)
    assert room < 2 * each or counts == [5] * 8, "what is left would not pay for one more question"


def test_a_budget_pays_for_contested_pairs_with_what_clear_ones_leave() -> None:
    pairs = [pair(n) for n in range(8)]
    weighs: Weighs = lambda a, b, c: sure_of_good(0.97 if int(a[-1]) < 6 else 0.6)(a, b, c)  # noqa: E731
    [alone] = outcome_of([pairs[0]], judging(weighs), certain_at=0.9).records
    assert len(alone.verdicts) == 1
    counts = [
        len(record.verdicts)
        for record in outcome_of(pairs, judging(weighs), certain_at=0.9, tokens_per_pair=150).records
    ]
    assert counts[:6] == [1] * 6
    assert all(count > 2 for count in counts[6:])


MODES = st.fixed_dictionaries(
    {
        "principles": st.sampled_from(["all", "drawn", 2, 4]),
        "certain_at": st.sampled_from([None, 0.5, 0.75, 1.0]),
        "tokens_per_pair": st.sampled_from([None, 120, 250]),
        "reasoning": st.sampled_from([None, THINKING, Reasoning(2, Sampling(max_new_tokens=9))]),
        "temperature": st.sampled_from([0.5, 1.0, 3.0]),
    }
)


def thoughtful(seed: int) -> ScriptedModel:
    """A judge with a taste, a noise and a position bias; its thoughts change what it decides."""

    def reply(request: Request) -> str:
        return f"thought {derive('t', seed, request.seed) % 7}"

    def choices(request: ChoiceRequest) -> Sequence[float]:
        p = derive("taste", seed, *(message.content for message in request.messages)) % 1001 / 1000
        return [log(q) if q else -inf for q in (p, 1 - p)]

    return ScriptedModel(reply, choices)


@given(st.lists(st.tuples(st.text("ab", max_size=3), st.text("ab", max_size=3)), max_size=5), MODES, st.integers(0, 99))
def test_in_every_mode_a_preference_survives_the_swap_of_its_answers(
    rows: list[tuple[str, str]], mode: dict[str, object], seed: int
) -> None:
    def outcome(turn: int) -> Outcome[Preference]:
        pairs = [CandidatePair(new_prompt(f"q{n}"), *row[::turn], "t") for n, row in enumerate(rows)]
        return judge(pairs, FIVE, thoughtful(seed), JudgeSettings(**mode), seed)  # type: ignore[arg-type]

    assert outcome(1) == outcome(-1)


@given(st.lists(st.tuples(st.integers(0, 2), st.text("ab", max_size=2)), max_size=8), MODES, st.integers(0, 2**31))
def test_in_every_mode_every_pair_ends_exactly_once_whatever_fails_in_whichever_wave(
    rows: list[tuple[int, str]], mode: dict[str, object], seed: int
) -> None:
    def choices(request: ChoiceRequest) -> Sequence[float]:
        roll = derive(seed, *(message.content for message in request.messages)) % 12
        return [(nan, 0.0), (0.0,), (-inf, -inf)][roll] if roll < 3 else (-0.2 * roll, -1.0)

    def reply(request: Request) -> str:
        return "" if derive(seed, request.seed) % 9 == 0 else "Hm."

    pairs = [CandidatePair(new_prompt(f"question {q}"), first, "b", "t") for q, first in rows]
    outcome = judge(pairs, FIVE, ScriptedModel(reply, choices), JudgeSettings(**mode), seed)  # type: ignore[arg-type]
    made = [content_id("pair", r.prompt.id, *sorted((r.chosen, r.rejected))) for r in outcome.records]
    assert sorted([*made, *(r.id for r in outcome.rejects)]) == sorted(each.id for each in pairs)
    assert {r.reason for r in outcome.rejects} <= {
        *("broken judgement", "empty reasoning", "duplicate input", "identical answers", "trivial answers"),
    }
    assert all(0.5 <= r.p_chosen <= 1 for r in outcome.records)


def test_a_pair_lost_in_a_later_wave_is_a_reject_and_the_others_go_on() -> None:
    second = drawn_order(FIVE, 17, pair(1).id, 0)[1]

    def choices(request: ChoiceRequest) -> Sequence[float]:
        text = request.messages[-1].content
        return (nan, 0.0) if "question 1" in text and second.preference in text else (0.0, 0.0)

    outcome = outcome_of([pair(n) for n in range(3)], ScriptedModel([], choices), certain_at=0.9)
    assert [(r.id, r.reason) for r in outcome.rejects] == [(pair(1).id, "broken judgement")]
    assert outcome.rejects[0].detail.startswith("2 of 4 judgements: principle ")
    assert [len(record.verdicts) for record in outcome.records] == [5, 5]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4), st.floats(0.3, 4))
def test_orders_that_name_different_answers_are_never_a_preference(
    told: list[tuple[float, float]], temperature: float
) -> None:
    verdicts = [Verdict(f"p{i}", *both) for i, both in enumerate(told)]
    settings = JudgeSettings(temperature=temperature)
    decision = decide(verdicts, [1.0] * len(verdicts), settings)
    turned = decide([verdict.turned() for verdict in verdicts], [1.0] * len(verdicts), settings)
    assert (turned.kind, turned.certainty) == (decision.kind, pytest.approx(decision.certainty, abs=1e-9))
    if decision.certainty == 0:
        assert decision.kind in ("tie", "contradiction")
    if decision.kind == "preferred":
        assert decision.certainty >= 0.5


def test_one_sure_order_does_not_outvote_the_other_by_hand() -> None:
    """0.99 shown first and 0.4 shown second: the mean, 0.695, is no tie, and yet the orders name different answers."""
    decision = decide([Verdict("p", 0.99, 0.4)], [1.0], JudgeSettings())
    assert (decision.p, decision.kind, decision.certainty) == (pytest.approx(0.695), "tie", 0.0)


def test_labels_of_a_judge_that_thinks_stay_within_bounds_and_its_kinds_do_not() -> None:
    """0.95 in both orders would be a label of 0.95; thought about it is 0.6, and still no tie."""
    [record] = outcome_of([pair(0)], judging(sure_of_good(0.95)), reasoning=THINKING).records
    assert (record.chosen, record.p_chosen, record.kind) == ("good 0", 0.6, "preferred")
    assert all(verdict.p == pytest.approx(0.95) for verdict in record.verdicts)
    assert all(verdict.reasons == ("They differ.", "They differ.") for verdict in record.verdicts)
    [mild] = outcome_of([pair(0)], judging(sure_of_good(0.55)), reasoning=THINKING).records
    assert (mild.p_chosen, mild.kind) == (pytest.approx(0.55), "tie")


def test_thoughts_change_the_digest_of_the_words_in_a_records_lineage() -> None:
    [record] = outcome_of([pair(0)], judging(sure_of_good(0.9)), reasoning=THINKING).records
    assert record.lineage.frames == frames_digest(reasoned=True) != frames_digest()


def test_a_temperature_divides_the_log_odds_by_hand() -> None:
    """0.9 has log-odds ln 9; half of that is ln 3, so 0.75. At 4 it is ln √3, so 0.634; at 6 0.591, which is a tie."""
    for temperature, p, kind in ((2.0, 0.75, "preferred"), (4.0, 0.633975, "preferred"), (6.0, 0.590541, "tie")):
        [record] = outcome_of([pair(0)], judging(sure_of_good(0.9)), temperature=temperature).records
        assert (record.p_chosen, record.kind) == (pytest.approx(p, abs=1e-6), kind)
        assert record.verdicts[0].p == pytest.approx(0.9), "verdicts stay as they were given"
