"""Charts: places and ticks by hand, odd data, and labels that cannot leave their attribute."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.charts import Mark, Series, dot_strip, line_chart, ticks

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(finite, finite)
def test_ticks_enclose_the_range_in_equal_round_steps(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8


def test_ticks_of_a_loss_from_0_to_07() -> None:
    assert ticks(0.02, 0.693) == [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("value", [0.0, 0.693147, 5.44, -61.8, 1e5])
def test_a_flat_line_gets_an_axis_with_short_numbers(value: float) -> None:
    svg = ET.fromstring(line_chart([Series("loss", "first", [(1, value), (2, value + 1e-5)])], "loss"))
    labels = [text.text or "" for text in svg.iter("text") if text.get("text-anchor") == "end" and text.text != "step"]
    assert len(labels) == len(set(labels)) >= 2
    assert max(map(len, labels)) <= 7


def test_a_strip_places_each_share_on_the_scale() -> None:
    svg = ET.fromstring(dot_strip([Mark("base", 0.97, 0.94, 0.99), Mark("tuned", 0.0, 0.0, 0.02)], "label"))
    assert [circle.get("cx") for circle in svg.iter("circle")] == ["97.00%", "0.00%"]
    spans = [line for line in svg.iter("line") if line.get("class") == "span"]
    assert [(span.get("x1"), span.get("x2")) for span in spans] == [("94.00%", "99.00%"), ("0.00%", "2.00%")]


def test_a_falling_loss_falls_on_the_picture() -> None:
    svg = line_chart([Series("loss", "first", [(1, 0.7), (2, 0.4), (3, 0.1)])], "loss")
    points = re.search(r'points="([^"]*)"', svg)
    assert points
    heights = [float(pair.split(",")[1]) for pair in points[1].split()]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0, math.nan, 1.0]])
def test_a_single_value_a_flat_line_and_a_gap_can_be_drawn(values: list[float]) -> None:
    svg = line_chart([Series("loss", "first", list(enumerate(values, 1)))], "loss")
    ET.fromstring(svg)
    assert "nan" not in svg


def test_a_long_training_stays_a_small_picture() -> None:
    points = [(float(i), math.sin(i / 900)) for i in range(20_000)]
    assert len(line_chart([Series("loss", "first", points)], "loss")) < 10_000


def test_labels_cannot_leave_their_attribute() -> None:
    for svg in (dot_strip([], '"><script>'), line_chart([Series("a", '"><b>', [(1, 1)])], '"><script>')):
        assert "<script>" not in svg
        assert "<b>" not in svg
        ET.fromstring(svg)
