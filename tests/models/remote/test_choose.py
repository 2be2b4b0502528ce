"""Reading a choice: numbers by hand, never a default, and the same whichever text comes first."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.models.protocol import Choice
from cai.models.remote.choose import certain, read_top, read_word
from cai.models.remote.probe import chosen_in

AB = ("A", "B")
BA = ("B", "A")


def logs(**shares: float) -> dict[str, float]:
    return {token.replace("_", " "): math.log(share) for token, share in shares.items()}


def test_shares_are_those_of_the_texts_among_themselves_with_their_spellings_added() -> None:
    """A: 0.5 and " A" 0.1, B: 0.2: 0.6 to 0.2, which is 0.75."""
    told = read_top(logs(A=0.5, _A=0.1, B=0.2, The=0.1), AB)
    assert told is not None
    assert Choice(told).probabilities == pytest.approx((0.75, 0.25))


def test_a_text_that_is_not_told_weighs_at_most_what_the_last_one_told_does() -> None:
    """B is not told: at most 0.0002, the last one's, which is less than a hundredth of A's 0.99."""
    told = read_top(logs(A=0.99, The=0.005, a=0.0002), AB)
    assert told == pytest.approx((math.log(0.99), math.log(0.0002)))


def test_where_a_missing_text_could_weigh_something_nothing_is_known() -> None:
    assert read_top(logs(A=0.5, The=0.3, It=0.05), AB) is None
    assert read_top(logs(The=0.9, It=0.05), AB) is None
    assert read_top({}, AB) is None
    assert read_top(None, AB) is None


def test_shares_above_one_are_no_probabilities() -> None:
    assert read_top(logs(A=0.9, B=0.9), AB) is None


def test_an_impossible_text_is_impossible() -> None:
    assert read_top({"A": 0.0, "B": -math.inf}, AB) == (0.0, -math.inf)
    assert read_top({"A": -math.inf, "B": -math.inf}, AB) is None


TOPS = st.dictionaries(
    st.sampled_from(["A", "B", " A", "B ", "▁A", "The", "AB", "a", ""]),
    st.floats(max_value=0) | st.just(-math.inf) | st.floats(-1, 0),
    max_size=6,
)


@given(TOPS)
def test_reading_probabilities_is_the_same_whichever_text_comes_first(top: dict[str, float]) -> None:
    one, other = read_top(top, AB), read_top(top, BA)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one == (other[1], other[0])
        assert not any(math.isnan(p) or p > 0.06 for p in one)
        assert max(one) > -math.inf


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("A", "A"),
        (" B.", "B"),
        ("(A)", "A"),
        ("**B**", "B"),
        ('"A"', "A"),
        ("Answer: B", "B"),
        ("The answer is: A", "A"),
        ("The better answer is B.", "B"),
        ("answer B", "B"),
        ("<think>A or B? A!</think>\nB", "B"),
        ("A or B", None),
        ("A B", None),
        ("A, because B is rude", None),
        ("a", None),
        ("", None),
        ("C", None),
        ("<think>A", None),
        ("Answer:", None),
        ("I cannot decide.", None),
        ("Neither A", None),
    ],
)
def test_a_reply_names_a_text_or_none(reply: str, word: str | None) -> None:
    assert read_word(reply, AB) == word


WORDS = st.lists(st.sampled_from(["A", "B", "AB", "answer", "The", "is", ":", ".", " ", "\n", "<think>", "</think>"]))


@given(st.text() | WORDS.map("".join) | WORDS.map(" ".join))
def test_reading_never_fails_never_defaults_and_is_symmetric(reply: str) -> None:
    """Swapping the two letters in the reply swaps what is read; a reply without a letter names none."""
    swapped = reply.translate({ord("A"): "B", ord("B"): "A"})
    mirror = {"A": "B", "B": "A", None: None}
    for read in (read_word, chosen_in):
        word = read(reply, AB)
        assert word == read(reply, BA)
        assert read(swapped, AB) == mirror[word]
        assert word is None or word in reply


VALUES = st.recursive(
    st.none() | st.text() | st.integers() | st.sampled_from(AB),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["choice", "answer"]), inner),
)


@given(VALUES)
def test_only_an_object_that_obeys_the_schema_names_a_text(value: object) -> None:
    word = chosen_in(json.dumps(value), AB)
    assert word is None or value == {"choice": word}


def test_scores_are_read_as_a_whole() -> None:
    scores = tuple(str(i) for i in range(1, 11))
    assert read_word("10", scores) == "10"
    assert read_word("Answer: 1", scores) == "1"
    assert read_word("11", scores) is None


def test_a_word_is_certain_and_nothing_is_not() -> None:
    assert certain("B", AB) == (-math.inf, 0.0)
    assert certain(None, AB) is None
