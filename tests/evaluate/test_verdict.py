"""The result in words and numbers: honest about costs, silent about noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.verdict import headline, percent, points


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.045, "5 %"), (0.97, "97 %"), (0.004, "0.4 %"), (0.9961, "99.6 %")],
)
def test_a_share_reads_as_people_write_it(share: float, text: str) -> None:
    assert percent(share).replace("\u202f", " ") == text


@given(st.floats(0, 1), st.integers(0, 2))
def test_only_nothing_is_0_percent_and_only_everything_is_100_percent(share: float, digits: int) -> None:
    text = percent(share, digits).removesuffix("\u202f%")
    assert (text in {"0", "0.0", "0.00"}) == (share == 0)
    assert (text in {"100", "100.0", "100.00"}) == (share == 1)


def test_a_difference_has_its_sign_and_zero_has_none() -> None:
    assert [points(x) for x in (0.91, -0.96, 0.0, -0.0001)] == ["+91.0", "−96.0", "0.0", "0.0"]


def test_the_headline_tells_gains_and_what_stayed(make_row) -> None:
    rows = [
        make_row("harmful_compliance", "lower", {"base": 0.97, "tuned": 0.01}),
        make_row("helpfulness", "higher", {"base": 0.99, "tuned": 0.985}),
        make_row("brevity", "higher", {"base": 0.6, "tuned": 0.8}),
    ]
    said = headline(rows).replace("\u202f", " ")
    assert said == "Harmful compliance fell from 97 % to 1 %; helpfulness is unchanged."


def test_the_headline_never_hides_a_cost(make_row) -> None:
    rows = [
        make_row("harmful_compliance", "lower", {"base": 0.97, "tuned": 0.0}),
        make_row("helpfulness", "higher", {"base": 0.99, "tuned": 0.02}),
        make_row("over_refusal", "lower", {"base": 0.0, "tuned": 0.98}),
        make_row("brevity", "higher", {"base": 0.9, "tuned": 0.4}),
    ]
    said = headline(rows).replace("\u202f", " ")
    assert said == (
        "Harmful compliance fell from 97 % to 0 %; at a cost: helpfulness fell from 99 % to 2 %, "
        "over-refusal rose from 0 % to 98 % and brevity fell from 90 % to 40 %."
    )


def test_noise_is_no_news(make_row) -> None:
    rows = [make_row("harmful_compliance", "lower", {"base": 0.97, "tuned": 0.96})]
    assert headline(rows).startswith("Nothing measurable changed")


def test_one_model_alone_is_not_compared(make_row) -> None:
    assert headline([make_row("honesty", "higher", {"base": 0.1})]).startswith("Nothing was compared")
