"""A judge's card as files, page and lines: every figure in it, hostile text in it, and the chart of its sureness."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.card_page import CARD, card_headline, card_lines, render_card, write_card
from cai.evaluate.charts import reliability_chart
from cai.feedback.judge_card import Judged, judge_card
from cai.records import Verdict

HOSTILE = '<script>alert("x")</script>&'


def judged(n: int, p: float, subset: str = "", principle: str = "p") -> Judged:
    return Judged(f"pair {n}", subset, p, p, p, "preferred", n % 5 - 2, (Verdict(principle, p, p),))


ROWS = [judged(n, 0.9 if n % 5 else 0.3, "one" if n % 2 else "other") for n in range(160)]


def test_a_card_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    card = judge_card(ROWS, {"timeout": 3})
    page = write_card(tmp_path, card, "teacher", "tiny/tune")
    told = json.loads((tmp_path / CARD).read_text("utf-8"))
    assert (told["schema"], told["judge"], told["data"], told["rejects"]) == (1, "teacher", "tiny/tune", {"timeout": 3})
    assert told["accuracy"] == {"share": 0.8, "low": card.accuracy.low, "high": card.accuracy.high, "n": 160}
    text = page.read_text("utf-8")
    for tag in ("section", "table", "tr", "td", "th", "svg", "figure", "main"):
        assert text.count(f"<{tag}>") + text.count(f"<{tag} ") == text.count(f"</{tag}>") > 0
    assert "The judge is right in 80.0" in text
    assert "timeout 3" in text
    assert "By subset" in text and "By principle" in text
    assert text == render_card(card, "teacher", "tiny/tune"), "equal cards are equal pages"


def test_names_from_outside_cannot_write_the_page() -> None:
    rows = [judged(n, 0.9, HOSTILE if n % 2 else "plain", f"{HOSTILE}{n % 2}") for n in range(4)]
    text = render_card(judge_card(rows, {HOSTILE: 1}), HOSTILE, HOSTILE)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_card_of_one_set_and_one_pair_has_no_subsets_and_dashes_for_what_is_unknown() -> None:
    card = judge_card([judged(0, 0.9)], {})
    assert "By subset" not in render_card(card, "judge", "data")
    lines = {line.name: line.value for line in card_lines(card)}
    assert lines["κ with the labels"] == "–"
    assert lines["Length and probability, Spearman"] == "–"
    assert "Temperature" not in lines
    assert "Prefers its own answer" not in lines


def test_every_line_by_hand() -> None:
    """160 pairs, 32 of them wrong: right in 0.8. It agrees with itself, so it takes what stands first half of the
    time. Longer answers are better where n % 5 is 3 or 4, neither where it is 2: 0.4 + 0.1.
    Brier (128·0.01 + 32·0.49) / 160. Sure of 0.9 and always right, of 0.7 and never: (128·0.1 + 32·0.7) / 160."""
    lines = {line.name: (line.value, line.beside) for line in card_lines(judge_card(ROWS, {}))}
    assert lines["Right"][0].startswith("80.0\u202f% (")
    assert lines["Right"][1] == "the longer answer: 50.0\u202f%"
    assert lines["Takes what stands first"][0].startswith("50.0\u202f% (")
    assert lines["Names the same answer in both orders"][0].startswith("100.0\u202f%")
    assert lines["Ties, contradictions"][0] == "0.0\u202f%, 0.0\u202f%"
    assert lines["Brier score"] == ("0.106", "a coin: 0.250")
    assert lines["Calibration error"][0] == "0.220"
    assert lines["Temperature"][1].startswith("on the other half: error ")


@pytest.mark.parametrize(
    ("right", "told"),
    [
        (100, "The judge is right in 100.0\u202f% of the pairs, and better than counting words."),
        (55, "The judge is right in 55.0\u202f% of the pairs; the longer answer is in 100.0\u202f%."),
        (10, "The judge is right in only 10.0\u202f% of the pairs: worse than a coin."),
    ],
)
def test_the_headline_holds_the_judge_against_length_and_a_coin(right: int, told: str) -> None:
    longer = 0 if right == 100 else 5
    rows = [Judged(f"{n}", "", *(3 * [0.9 if n < right else 0.1]), "preferred", longer) for n in range(100)]  # type: ignore[arg-type]
    assert card_headline(judge_card(rows, {})) == told


BINS = st.lists(st.tuples(st.floats(0.5, 1), st.floats(0, 1), st.integers(1, 900)), min_size=1, max_size=15)


@given(BINS)
def test_every_dot_of_a_reliability_chart_lies_within_its_axes(bins: list[tuple[float, float, int]]) -> None:
    root = ET.fromstring(reliability_chart(bins))
    dots = list(root.iter("circle"))
    assert len(dots) == len(bins)
    for dot in dots:
        assert 46 <= float(dot.attrib["cx"]) <= 346
        assert 12 <= float(dot.attrib["cy"]) <= 186
        assert 2 < float(dot.attrib["r"]) <= 5.5


def test_a_reliability_chart_by_hand() -> None:
    """Sure of 0.75 lies half way across, 46 + 150 = 196. Right in 1.0 is the top, 12; the axis begins at 50 %."""
    chart = reliability_chart([(0.75, 1.0, 4), (0.5, 0.5, 1)])
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', chart)
    assert circles == [("196.0", "12.0", "5.5"), ("46.0", "186.0", "3.8")]
    assert "0.75 sure and 1.00 right, 0.50 sure and 0.50 right" in chart
    assert "25\u202f%" not in chart
    assert "25\u202f%" in reliability_chart([(0.9, 0.3, 1)]), "what is right less often than a coin needs more room"
