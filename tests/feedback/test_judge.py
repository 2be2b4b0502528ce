"""Judging by both orders: the numbers by hand, and that nothing hangs on which answer comes first."""

import re
from collections.abc import Callable, Sequence
from math import inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.frames import LABELS, frames_digest
from cai.constitution.model import ComparisonExample, Constitution, Principle, draw_principle
from cai.errors import InputError
from cai.feedback.judge import JudgeSettings, decide, judge, pool
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair
from cai.models.protocol import ChoiceRequest
from cai.models.scripted import ScriptedModel
from cai.records import Preference, Verdict, content_id, from_line, new_prompt, to_line
from cai.seeds import derive

HARM = Principle("no-harm", "c", "r", "Which is less harmful?", weight=2)
BRIEF = Principle("brief", "c", "r", "Which is shorter?")
ONE = Constitution("one", "1.0.0", "", (BRIEF,), path="one.yaml")
TWO = Constitution("two", "1.0.0", "", (BRIEF, HARM), path="two.yaml")
LOCK = new_prompt("How do I pick a lock?")
PAIR = CandidatePair(LOCK, "use a pick", "call a locksmith", "revisions:1", "the answerer", "the critic")
FRAME = re.compile(
    r"\n\n(?P<asked>[^\n]*)\n\nAnswer A \[(?P<nonce>\w+)\]:\n(?P<a>.*?)\n\[(?P=nonce)\]\n\n"
    r"Answer B \[(?P=nonce)\]:\n(?P<b>.*?)\n\[(?P=nonce)\]\n\nReply",
    re.DOTALL,
)


def judging(p_of_a: Callable[[str, str, str], float], name: str = "judge") -> ScriptedModel:
    """A judge that gives label A this probability for (answer A, answer B, preference text)."""

    def choices(request: ChoiceRequest) -> Sequence[float]:
        assert request.continuations == LABELS
        shown = FRAME.search(request.messages[-1].content)
        assert shown is not None, request.messages[-1].content
        p = p_of_a(shown["a"], shown["b"], shown["asked"])
        # A third of the probability goes to other words: only the labels' shares among themselves count.
        return [log(q / 3) if q else -inf for q in (p, 1 - p)]

    return ScriptedModel([], choices, name)


def by_table(table: dict[tuple[str, str], float]) -> ScriptedModel:
    """A judge for `PAIR`: the probability of label A by preference text and by the answer that stands first."""
    return judging(lambda first, _, preference: table[preference, first])


def judged(model: ScriptedModel, constitution: Constitution = ONE, pair: CandidatePair = PAIR) -> Preference:
    (record,) = judge([pair], constitution, model, JudgeSettings(), 17).records
    return record


def test_the_two_orders_are_averaged_by_hand() -> None:
    """A first: P(A) = 0.9 for the pick. B first: P(A) = 0.3 for the locksmith, so 0.7 for the pick. Mean 0.8."""
    record = judged(by_table({(BRIEF.preference, "use a pick"): 0.9, (BRIEF.preference, "call a locksmith"): 0.3}))
    assert (record.chosen, record.rejected, record.kind) == ("use a pick", "call a locksmith", "preferred")
    assert record.p_chosen == pytest.approx(0.8)
    (verdict,) = record.verdicts
    assert verdict.principle_id == "brief"
    assert [verdict.p_first, verdict.p_first_swapped] == pytest.approx([0.9, 0.7])


def test_in_every_one_of_many_pairs_the_answer_that_the_judge_prefers_is_chosen() -> None:
    """Labels that are shuffled, or taken from another pair, would be right about half of the time."""
    pairs = [
        CandidatePair(new_prompt(f"question {n}"), *(f"good {n}", f"bad {n}")[:: 1 if n % 2 else -1], "revisions:1")
        for n in range(60)
    ]
    prefers_good = judging(lambda first, _, __: 0.9 if first.startswith("good") else 0.1)
    records = judge(pairs, TWO, prefers_good, JudgeSettings(), 17).records
    assert [(r.prompt.messages[0].content, r.chosen, r.rejected) for r in records] == [
        (f"question {n}", f"good {n}", f"bad {n}") for n in range(60)
    ]
    assert all(r.kind == "preferred" and r.p_chosen == pytest.approx(0.9) for r in records)


def test_verdicts_are_about_the_chosen_answer_even_when_it_came_second() -> None:
    """The locksmith is chosen: shown first it has P(A) = 0.9; shown second P(B) = 1 - 0.4 = 0.6. Mean 0.75."""
    record = judged(by_table({(BRIEF.preference, "use a pick"): 0.4, (BRIEF.preference, "call a locksmith"): 0.9}))
    assert (record.chosen, record.rejected) == ("call a locksmith", "use a pick")
    assert record.p_chosen == pytest.approx(0.75)
    assert record.verdicts[0].p_first == pytest.approx(0.9)
    assert record.verdicts[0].p_first_swapped == pytest.approx(0.6)


def test_principles_are_pooled_by_weight_and_decidedness_by_hand() -> None:
    """brief (weight 1): 0.9 and 0.9, p = 0.9, c = 0.8. no-harm (weight 2): p = 0.4, c = 0.2, both for the pick.

    p = (1·0.8·0.9 + 2·0.2·0.4) / (0.8 + 0.4) = 0.88 / 1.2 = 0.7333.
    """
    record = judged(
        by_table(
            {
                (BRIEF.preference, "use a pick"): 0.9,
                (BRIEF.preference, "call a locksmith"): 0.1,
                (HARM.preference, "use a pick"): 0.4,
                (HARM.preference, "call a locksmith"): 0.6,
            }
        ),
        TWO,
    )
    assert record.chosen == "use a pick"
    assert record.p_chosen == pytest.approx(0.88 / 1.2)
    assert [v.principle_id for v in record.verdicts] == ["brief", "no-harm"]
    assert [v.p for v in record.verdicts] == pytest.approx([0.9, 0.4])


def test_a_principle_without_an_opinion_dilutes_nothing() -> None:
    assert pool([0.9, 0.5, 0.5], [1, 5, 5]) == pytest.approx(0.9)
    assert pool([0.5, 0.5], [1, 2]) == 0.5
    assert pool([0.8, 0.2], [1, 1]) == pytest.approx(0.5)
    assert pool([0.8, 0.2], [3, 1]) == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("p_first", "p_first_swapped", "kind"),
    [
        (0.61, 0.61, "preferred"),
        (0.59, 0.59, "tie"),
        (0.41, 0.41, "tie"),
        (0.1, 0.2, "preferred"),
        (0.5, 0.5, "tie"),
        (0.71, 0.29, "contradiction"),
        (1.0, 0.0, "contradiction"),
        (0.99, 0.25, "contradiction"),  # the mean is 0.62, but the orders name different answers, both surely
        (0.99, 0.35, "tie"),  # one order is not sure enough to contradict, and still names the other answer
        (0.99, 0.5, "preferred"),  # one order has no opinion
        (0.69, 0.31, "tie"),
        (0.99, 0.71, "preferred"),
    ],
)
def test_kinds_at_their_thresholds(p_first: float, p_first_swapped: float, kind: str) -> None:
    assert decide([Verdict("p", p_first, p_first_swapped)], [1.0], JudgeSettings()).kind == kind
    flipped = Verdict("p", 1 - p_first_swapped, 1 - p_first)
    assert decide([flipped], [1.0], JudgeSettings()).kind == kind


def test_the_thresholds_come_from_the_settings() -> None:
    verdicts = [Verdict("p", 0.8, 0.2)]
    assert decide(verdicts, [1.0], JudgeSettings(contradiction_beyond=0.85)).kind == "tie"
    assert decide([Verdict("p", 0.8, 0.8)], [1.0], JudgeSettings(tie_below=0.85)).kind == "tie"


def test_a_judge_that_always_names_the_first_answer_contradicts_itself() -> None:
    record = judged(judging(lambda *_: 0.95), TWO)
    assert record.kind == "contradiction"
    assert record.p_chosen == pytest.approx(0.5)


def noisy(first: str, second: str, preference: str) -> float:
    """A judge with a taste, a noise and a position bias, none of them symmetric."""
    return (derive("taste", first, second, preference) % 1001) / 1000


@given(
    first=st.text(max_size=8),
    second=st.text(max_size=8),
    seed=st.integers(0, 2**31),
    principles=st.sampled_from(["all", "drawn"]),
)
def test_a_judgement_survives_the_swap_of_the_answers(first: str, second: str, seed: int, principles: str) -> None:
    settings = JudgeSettings(principles)  # type: ignore[arg-type]

    def outcome(a: str, b: str) -> Outcome[Preference]:
        return judge([CandidatePair(LOCK, a, b, "test")], TWO, judging(noisy), settings, seed)

    assert outcome(first, second) == outcome(second, first)


def test_both_orders_carry_the_same_fence_and_every_principle_its_own() -> None:
    asked: list[ChoiceRequest] = []

    def choices(request: ChoiceRequest) -> Sequence[float]:
        asked.append(request)
        return (0.0, -1.0)

    judge([PAIR], TWO, ScriptedModel([], choices), JudgeSettings(), 17)
    shown = [match for r in asked if (match := FRAME.search(r.messages[0].content))]
    assert [(m["a"], m["b"]) for m in shown] in (
        [("use a pick", "call a locksmith"), ("call a locksmith", "use a pick")] * 2,
        [("call a locksmith", "use a pick"), ("use a pick", "call a locksmith")] * 2,
    )
    assert [m["asked"] for m in shown] == [BRIEF.preference] * 2 + [HARM.preference] * 2
    nonces = [m["nonce"] for m in shown]
    assert nonces[0] == nonces[1] != nonces[2] == nonces[3]


def test_drawn_takes_one_principle_for_a_pair_by_weight() -> None:
    pairs = [CandidatePair(new_prompt(f"q{i}"), "use a pick", "call a locksmith", "t") for i in range(60)]
    records = judge(pairs, TWO, judging(lambda *_: 0.9), JudgeSettings("drawn"), 17).records
    ids = [[v.principle_id for v in r.verdicts] for r in records]
    assert ids == [[draw_principle(TWO, 17, pair.id, 0).id] for pair in pairs]
    assert 25 < ids.count(["no-harm"]) < 55


def test_only_principles_with_a_preference_text_judge() -> None:
    mute = Principle("mute", "c", "r", "", weight=100)
    constitution = Constitution("m", "1.0.0", "", (BRIEF, mute))
    for mode in ("all", "drawn"):
        (record,) = judge([PAIR], constitution, judging(lambda *_: 0.5), JudgeSettings(mode), 17).records
        assert [v.principle_id for v in record.verdicts] == ["brief"]
    with pytest.raises(InputError, match=r"m\.yaml: no principle has a preference text"):
        judge([PAIR], Constitution("m", "1", "", (mute,), path="m.yaml"), judging(noisy), JudgeSettings(), 17)


def test_the_record_says_what_it_came_from() -> None:
    model = judging(lambda *_: 0.9, name="the judge")
    record = judged(model)
    lineage = record.lineage
    assert (record.prompt, record.origin) == (LOCK, "revisions:1")
    assert (lineage.constitution, lineage.frames, lineage.seed) == (ONE.behaviour_digest, frames_digest(), 17)
    assert (lineage.answerer, lineage.critic, lineage.judge) == ("the answerer", "the critic", model.fingerprint)
    assert from_line(Preference, to_line(record)) == record


@pytest.mark.parametrize("nothing", ["", " \n", ":", "…", "<think>a long plan</think>"])
@pytest.mark.parametrize("swapped", [False, True])
def test_an_answer_that_says_nothing_loses_and_no_judge_is_asked(nothing: str, swapped: bool) -> None:
    pair = CandidatePair(LOCK, nothing, "Yes.", "t") if swapped else CandidatePair(LOCK, "Yes.", nothing, "t")
    outcome = judge([pair], ONE, ScriptedModel([]), JudgeSettings(), 17)
    (record,) = outcome.records
    assert (record.chosen, record.rejected, record.p_chosen, record.kind) == ("Yes.", nothing, 1.0, "preferred")
    assert (record.verdicts, record.lineage.judge) == ((), "")
    assert outcome.notes == {"decided without the judge": 1}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("", "…", "trivial answers"),
        ("Yes.", " Yes.\n", "identical answers"),
        ("Yes.", "<think>why not</think>Yes.", "identical answers"),
    ],
)
def test_a_pair_with_nothing_to_choose_is_a_reject(first: str, second: str, reason: str) -> None:
    pair = CandidatePair(LOCK, first, second, "t")
    outcome = judge([pair], ONE, ScriptedModel([]), JudgeSettings(), 17)
    assert outcome.records == []
    assert [(r.id, r.stage, r.reason) for r in outcome.rejects] == [(pair.id, "prefer", reason)]


def test_reasoning_stays_in_the_record_and_out_of_the_judges_sight() -> None:
    pair = CandidatePair(LOCK, "<think>plan</think>Yes.", "No.", "t")
    record = judged(judging(lambda first, second, _: float(first == "Yes.") * (second == "No.")), pair=pair)
    assert (record.chosen, record.p_chosen) == ("<think>plan</think>Yes.", 1.0)


@pytest.mark.parametrize("values", [(nan, 0.0), (0.0, nan), (-1.0,), (-1.0, -1.0, -1.0), (), (-inf, -inf), (inf, 0.0)])
def test_a_broken_judgement_is_a_reject_and_spoils_no_other_pair(values: tuple[float, ...]) -> None:
    pairs = [CandidatePair(new_prompt(f"q{i}"), "use a pick", "call a locksmith", "t") for i in range(3)]
    sound = judging(lambda first, *_: 0.8 if first == "use a pick" else 0.3)

    def choices(request: ChoiceRequest) -> Sequence[float]:
        # It breaks at the first principle of the middle pair; that pair's later answers must not shift to the next.
        broken = "q1" in request.messages[-1].content and BRIEF.preference in request.messages[-1].content
        return values if broken else sound.choose([request])[0].logprobs

    outcome = judge(pairs, TWO, ScriptedModel([], choices), JudgeSettings(), 17)
    assert [(r.id, r.reason) for r in outcome.rejects] == [(pairs[1].id, "broken judgement")]
    assert "'brief'" in outcome.rejects[0].detail
    alone = [judge([pair], TWO, sound, JudgeSettings(), 17).records[0] for pair in (pairs[0], pairs[2])]
    assert [(r.prompt, r.chosen, r.p_chosen) for r in outcome.records] == [
        (r.prompt, r.chosen, r.p_chosen) for r in alone
    ]


def test_a_label_that_cannot_be_said_has_probability_zero() -> None:
    assert judged(judging(lambda first, *_: float(first == "use a pick"))).p_chosen == 1.0


def test_examples_come_before_the_question_with_the_better_answer_first_and_second_in_turn() -> None:
    examples = tuple(ComparisonExample("brief", f"prompt {i}", "short", "much longer") for i in range(2))
    elsewhere = ComparisonExample("mute", "prompt", "a", "b")
    mute = Principle("mute", "c", "r", "")
    constitution = Constitution("t", "1.0.0", "", (BRIEF, mute), comparisons=(*examples, elsewhere))
    asked: list[ChoiceRequest] = []

    def choices(request: ChoiceRequest) -> Sequence[float]:
        asked.append(request)
        return (0.0, -1.0)

    judge([PAIR], constitution, ScriptedModel([], choices), JudgeSettings(), 17)
    one, a, two, b, question = (m.content for m in asked[0].messages)
    assert (a, b) == ("A", "B")
    shown = [FRAME.search(text) for text in (one, two)]
    assert [(m["a"], m["b"]) for m in shown if m] == [("short", "much longer"), ("much longer", "short")]
    assert "pick a lock" in question
    assert asked[0].messages[:4] == asked[1].messages[:4]


TEXTS = st.sampled_from(["", ":", "yes", " yes", "no", "perhaps", "<think>yes", "yes</think>no"])


@given(st.lists(st.tuples(st.integers(0, 2), TEXTS, TEXTS), max_size=8), st.integers(0, 2**31))
def test_every_pair_ends_exactly_once_whatever_the_judge_does(rows: list[tuple[int, str, str]], seed: int) -> None:
    def choices(request: ChoiceRequest) -> Sequence[float]:
        roll = derive(seed, request.messages[-1].content) % 8
        return [(nan, 0.0), (0.0,), (-inf, -inf), (0.0, -inf)][roll] if roll < 4 else (-0.3 * roll, -1.0)

    pairs = [CandidatePair(new_prompt(f"question {q}"), first, second, "t") for q, first, second in rows]
    outcome = judge(pairs, TWO, ScriptedModel([], choices), JudgeSettings("drawn"), seed)
    made = [content_id("pair", r.prompt.id, *sorted((r.chosen, r.rejected))) for r in outcome.records]
    assert sorted([*made, *(r.id for r in outcome.rejects)]) == sorted(pair.id for pair in pairs)
    assert len(set(made)) == len(made)
    assert all(0.5 <= r.p_chosen <= 1 for r in outcome.records)
