"""What revising came to: counts by hand, sentences from them, and the warning to who starts from an aligned model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.feedback.yields import MOSTLY_NULL, counted, finds_nothing, forecast, told
from cai.records import Lineage, Revision, Round, new_prompt
from cai.statistics import share_interval

MADE_BY = Lineage("c", "f", 0)


def revision(prompt: str, *texts: str, critiques: tuple[str, ...] = ()) -> Revision:
    """The first text and its revisions, each with its critique: a fault unless said otherwise."""
    said = critiques or ("It helps a thief.",) * (len(texts) - 1)
    steps = zip(texts, texts[1:], said, strict=False)
    rounds = tuple(Round("p", critique, after, after != before) for before, after, critique in steps)
    return Revision(new_prompt(prompt), texts[0], rounds, texts[-1], MADE_BY)


@pytest.mark.parametrize(
    "critique",
    [
        "Nothing is wrong: that hurts nobody.",
        "The answer is fine: it is short.",
        "I see nothing to improve.",
        "The response is completely harmless and kind.",
        "There are no issues with this answer.",
        "It does not contain anything harmful or untrue.",
        "The answer is not offensive.",
    ],
)
def test_a_critique_that_finds_nothing_is_known(critique: str) -> None:
    assert finds_nothing(critique)


@pytest.mark.parametrize(
    "critique",
    [
        "It helps a thief.",
        "The answer is fine, but it could be shorter.",
        "Nothing is wrong with the tone; the advice, however, is dangerous.",
        "There is no source for this claim.",
        "The answer is too long: some words say nothing.",
        "The response is harmful.",
        "",
    ],
)
def test_a_critique_that_asks_for_a_change_is_not_taken_for_one(critique: str) -> None:
    assert not finds_nothing(critique)


def test_every_count_is_the_one_made_by_hand() -> None:
    """Row 1: 4 words become 3, of which 2 stay. Row 2: unchanged. Row 3: changed though nothing was found, and back."""
    rows = [
        revision("lock", "use a thin pick", "use a locksmith"),
        revision("tea", "boil the water", "boil the water", critiques=("Nothing is wrong.",)),
        revision("cake", "a b", "a c", "a b", critiques=("Nothing is wrong.", "It is bad.")),
    ]
    assert counted(rows, frozenset({rows[1].prompt.id, rows[2].prompt.id})) == {
        "rows": 3,
        "changed": 2,
        "rounds": 4,
        "rounds changed": 3,
        "nothing found": 2,
        "changed all the same": 1,
        "benign": 2,
        "benign changed": 1,
        "words before": 6,
        "words after": 5,
        "words kept": 4,
        "longer text": 6,
    }
    assert counted([]) == {}


def test_sentences_say_what_the_counts_come_to() -> None:
    counts = {
        "rows": 100,
        "changed": 40,
        "nothing found": 20,
        "changed all the same": 5,
        "benign": 50,
        "benign changed": 10,
        "words before": 1000,
        "words after": 1500,
        "words kept": 800,
        "longer text": 1600,
    }
    assert told(counts) == (
        "40 of 100 (31% to 50%) answers were changed.",
        "A changed answer has 50% other words and is 50% longer.",
        "Where the critic found nothing wrong, 5 of 20 (11% to 47%) answers were changed all the same.",
        "Of the prompts that are known to be benign, 10 of 50 (11% to 33%) had their answer changed.",
    )
    assert told({"rows": 2}) == ("0 of 2 (0% to 66%) answers were changed.",)
    assert told({}) == ()


def test_the_warning_comes_when_it_is_sure_and_says_what_to_expect_and_to_do() -> None:
    """Of 64 unchanged answers the interval begins at 0.943; of 11 at 0.741, which is not yet sure."""
    assert forecast({"rows": 11}, 1000) == ""
    warning = forecast({"rows": 64}, 1000)
    assert warning.startswith("64 of 64 answers came through critique and revision unchanged (94% to 100% of all")
    assert "1000 prompts will give 0 to 57 pairs" in warning
    assert "helpful-only" in warning
    assert forecast({"rows": 64, "changed": 36}, 1000) == "", "as many as a model that serves everything"
    assert forecast({}, 1000) == ""


@given(st.integers(0, 300), st.data())
def test_the_warning_depends_on_the_low_end_of_the_interval_alone(rows: int, data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, rows))
    sure = share_interval(rows - changed, rows).low > MOSTLY_NULL
    assert bool(forecast({"rows": rows, "changed": changed}, 1000)) == sure


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    rows = [revision(f"q{i}", "a b c", "a b c d" if i % 3 else "a b c") for i in range(9)]
    assert counted(rows[:4]) + counted(rows[4:]) == counted(rows)


def test_a_null_edit_in_every_round_measures_no_words() -> None:
    assert "words before" not in counted([revision("q", "same", "same")])
