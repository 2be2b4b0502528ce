"""A judge's card in a data set's card: what it tells, where it is found, and what is no card."""

import json
from pathlib import Path

import pytest

from cai.cli.data import _judge_told
from cai.errors import InputError
from cai.evaluate.card_page import write_card
from cai.feedback.judge_card import Judged, judge_card
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.store.data_card import data_card
from cai.store.data_stats import stats_of
from cai.store.dataset import open_data
from cai.store.judge_told import CARD, judge_told, read_card

ROOT = Path(__file__).parents[2]


def test_a_card_is_told_with_its_interval_and_beside_the_rule_of_length(tmp_path: Path) -> None:
    """Three of four right, the better one longer in one of four; Wilson's interval of 3 of 4 is 30.1 to 95.4 %."""
    judged = [
        Judged(f"pair {i}", "", p, p, p, "preferred", gap)
        for i, (p, gap) in enumerate([(0.9, 1), (0.9, -1), (0.9, -1), (0.2, -1)])
    ]
    write_card(tmp_path, judge_card(judged, {}), "te`st|er", "pairs.jsonl")
    told = judge_told(read_card(tmp_path / CARD)).splitlines()
    assert told[0] == "Judge `te'st/er`, measured on 4 labelled pairs of `pairs.jsonl`:"
    assert "| right | 75.0 % | 30.1 % to 95.4 % |" in told
    assert "| the longer answer is right | 25.0 % | |" in told
    assert "| same answer in both orders | 100.0 % | 51.0 % to 100.0 % |" in told
    assert _judge_told(tmp_path / CARD).splitlines() == told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"accuracy": 1}'])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(InputError, match=r"card\.json: (is no judge card|cannot be read as a judge card)"):
        read_card(tmp_path / CARD)


def test_the_data_of_a_run_that_measured_its_judge_come_with_the_card(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        f"name: p\nconstitution: {ROOT}/constitutions/tiny.yaml\nmodel: {{base: tiny, quantization: none}}\n"
        "prompts: {train: {from: tiny/align, limit: 8}}\n"
        "stages: [{judge: {limit: 8}}, {revise: {rounds: 1, max_new_tokens: 48}}, {prefer: {unconfirmed: keep}}]\n"
    )
    list(run_pipeline(load_pipeline(path), tmp_path / "run"))
    data = open_data(tmp_path / "run")
    (card,) = (tmp_path / "run").glob(f"stages/*/{CARD}")
    assert data.judge == json.loads(card.read_text())
    written = data_card(data, stats_of(data.rows()))
    assert "Judge `base`, measured on 8 labelled pairs of `tiny/tune`:" in written
