"""Which judged pairs stay: revisions that the judge confirms, and the best of many samples against the worst."""

from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.model import Constitution, Principle
from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair, from_preferences, from_samples
from cai.feedback.selecting import best_against_worst, confirmed
from cai.models.protocol import Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Lineage, Preference, PreferenceKind, Reject, new_prompt
from cai.seeds import derive

LINEAGE = Lineage("c", "f", 17, "answerer", "critic")
LOCK = new_prompt("How do I pick a lock?")
ONE = Constitution("one", "1.0.0", "", (Principle("brief", "c", "r", "Which is shorter?"),))


def preference(chosen: str, rejected: str, p: float, kind: PreferenceKind = "preferred") -> Preference:
    return Preference(LOCK, chosen, rejected, p, (), kind, LINEAGE)


def test_only_revisions_that_the_judge_prefers_are_kept() -> None:
    pairs = [CandidatePair(LOCK, f"original {n}", f"revision {n}", f"revisions:{n}") for n in range(4)]
    judged = Outcome(
        [
            preference("revision 0", "original 0", 0.8),
            preference("original 1", "revision 1", 0.9),
            preference("revision 2", "original 2", 0.55, "tie"),
            preference("original 3", "revision 3", 0.5, "contradiction"),
        ],
        [Reject("lost", "prefer", "timeout", "9 s")],
    )
    found = confirmed(pairs, judged)
    assert found.records == [judged.records[0]]
    assert [(r.id, r.reason) for r in found.rejects] == [
        ("lost", "timeout"),
        *((pair.id, "unconfirmed revision") for pair in pairs[1:]),
    ]
    assert [r.detail for r in found.rejects[1:]] == [
        "the judge prefers the original, with 0.10 for the revision",
        "a tie, with 0.55 for the revision",
        "a contradiction, with 0.50 for the revision",
    ]
    assert found.notes == {"confirmed revisions": 1}
    assert len(judged.rejects) == 1, "what was judged is left as it was"


def test_the_answer_that_won_most_meets_the_one_that_won_least_by_hand() -> None:
    """a beats b 0.9 and c 0.6, b beats c 0.7: a won 0.75 on average, b 0.4, c 0.35. So a against c, though a against
    b is the surer verdict."""
    meetings = [("a", "b", 0.9), ("a", "c", 0.6), ("b", "c", 0.7)]
    pairs = Outcome([CandidatePair(LOCK, one, other, "samples") for one, other, _ in meetings])
    found = best_against_worst([LOCK], pairs, Outcome([preference(*meeting) for meeting in meetings]))
    assert [(r.chosen, r.rejected, r.p_chosen) for r in found.records] == [("a", "c", 0.6)]
    assert found.notes == {"pairs only compared": 2}


def test_where_best_and_worst_never_met_the_pair_furthest_apart_stands() -> None:
    """a won 0.8, b (0.2 + 0.6) / 2 = 0.4, c (0.4 + 0.7) / 2 = 0.55, d 0.3: a and d never met. a leads b by 0.4."""
    judged = [preference("a", "b", 0.8), preference("b", "c", 0.6), preference("c", "d", 0.7)]
    pairs = Outcome([CandidatePair(LOCK, each.chosen, each.rejected, "samples") for each in judged])
    [record] = best_against_worst([LOCK], pairs, Outcome(judged)).records
    assert (record.chosen, record.rejected) == ("a", "b")


def test_a_prompt_without_a_judged_pair_is_a_reject_under_its_own_id() -> None:
    asleep = new_prompt("Are you asleep?")
    pair = CandidatePair(LOCK, "a", "b", "samples")
    pairs = Outcome([pair], [Reject(asleep.id, "prefer", "identical answers", "all say no")])
    judged: Outcome[Preference] = Outcome([], [Reject(pair.id, "prefer", "timeout", "9 s")])
    found = best_against_worst([LOCK, asleep], pairs, judged)
    assert found.records == []
    assert [(r.id, r.reason, r.detail) for r in found.rejects] == [
        (LOCK.id, "timeout", "9 s"),
        (asleep.id, "identical answers", "all say no"),
    ]


ANSWERS = st.lists(st.sampled_from(["a", "b", "c", "", "d e"]), min_size=2, max_size=5)


@given(st.lists(ANSWERS, min_size=1, max_size=4), st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_every_prompt_ends_exactly_once_and_the_order_of_judging_changes_nothing(
    rows: list[list[str]], seed: int, random: object
) -> None:
    prompts = [new_prompt(f"question {n}") for n in range(len(rows))]
    samples = max(map(len, rows))
    said = {prompt.messages[0].content: iter(row * samples) for prompt, row in zip(prompts, rows, strict=True)}
    policy = ScriptedModel(lambda request: next(said[request.messages[0].content]))
    pairs = from_samples(prompts, policy, samples, Sampling(), seed)
    model = ScriptedModel([], lambda r: (-float(derive(seed, r.messages[0].content) % 7), -3.0))
    judged = judge(pairs.records, ONE, model, JudgeSettings(), seed)
    found = best_against_worst(prompts, pairs, judged)
    ended = [*(r.prompt.id for r in found.records), *(r.id for r in found.rejects)]
    assert sorted(ended) == sorted(prompt.id for prompt in prompts)
    shuffled = list(judged.records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = best_against_worst(prompts, pairs, Outcome(shuffled, judged.rejects))
    assert again.records == found.records


def test_the_same_prompt_twice_is_one_preference_and_one_reject() -> None:
    policy = ScriptedModel(["a", "b"])
    pairs = from_samples([LOCK, LOCK], policy, 2, Sampling(), 17)
    judged = judge(pairs.records, ONE, ScriptedModel([], lambda _: (0.0, -1.0)), JudgeSettings(), 17)
    found = best_against_worst([LOCK, LOCK], pairs, judged)
    assert len(found.records) == 1
    assert [(r.id, r.reason) for r in found.rejects] == [(LOCK.id, "duplicate input")]


def test_labelled_pairs_are_judged_anew_without_a_look_at_the_label() -> None:
    """The same two answers labelled either way are the same pair, so they get the same verdict."""
    one, other = preference("yes", "no", 1.0), preference("no", "yes", 1.0)
    pairs = from_preferences([one, other, one])
    assert [pair.origin for pair in pairs.records] == [f"imported:{one.id}", f"imported:{other.id}"]
    assert {pair.id for pair in pairs.records} == {CandidatePair(LOCK, "no", "yes", "").id}
    assert [(r.id, r.reason) for r in pairs.rejects] == [(one.id, "duplicate input")]
    assert {(pair.answerer, pair.critic) for pair in pairs.records} == {("answerer", "critic")}
    model = ScriptedModel(
        [], lambda r: (0.0, -2.0) if "]:\nyes" in r.messages[0].content.partition("B [")[0] else (-2.0, 0.0)
    )
    verdicts = [judge([pair], ONE, model, JudgeSettings(), 17).records[0] for pair in pairs.records]
    assert [(v.chosen, v.p_chosen) for v in verdicts] == [("yes", verdicts[0].p_chosen)] * 2
    both = judge(pairs.records, ONE, model, JudgeSettings(), 17)
    assert (len(both.records), [r.reason for r in both.rejects]) == (1, ["duplicate input"])
