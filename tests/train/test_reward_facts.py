"""What a reward model is known to know."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.train.reward_facts import FACTS, RewardFacts, read_facts, require_better_than_chance

SOUND = RewardFacts(mean=0.2, deviation=1.0, accuracy=0.94, calibration_error=0.02, held_out=80)


@pytest.mark.parametrize(
    ("accuracy", "held_out", "at_chance"),
    [
        (0.94, 80, False),
        (0.50, 80, True),
        (0.60, 80, True),
        (0.62, 80, False),
        (0.20, 80, True),
        (0.60, 800, False),
        (0.00, 19, False),
        (0.00, 20, True),
        (None, 0, False),
    ],
)
def test_chance_is_what_the_interval_cannot_rule_out(accuracy: float | None, held_out: int, at_chance: bool) -> None:
    assert replace(SOUND, accuracy=accuracy, held_out=held_out).at_chance == at_chance


def test_only_a_model_that_is_known_to_know_nothing_is_refused(tmp_path: Path) -> None:
    require_better_than_chance("here", tmp_path)
    for facts in (SOUND, replace(SOUND, accuracy=0.5)):
        (tmp_path / FACTS).write_text(json.dumps(asdict(facts)), "utf-8")
        assert read_facts(tmp_path) == facts
        if facts == SOUND:
            require_better_than_chance("here", tmp_path)
            continue
        with pytest.raises(InputError) as refused:
            require_better_than_chance("here", tmp_path)
        assert "80 held-out pairs no better than a coin" in str(refused.value)
        assert "0.500" in str(refused.value) and "unproven_reward: allow" in str(refused.value)
