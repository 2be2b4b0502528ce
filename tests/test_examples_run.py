"""Every example runs as a program, as a reader would start it, and says what its first lines promise."""

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import ENVIRONMENT

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "try_a_principle.py": "tests/feedback/test_try_a_principle.py",
    "run_from_python.py": "tests/cli/test_from_python.py",
}


def told_by(example: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / example)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def numbers(text: str, before: str) -> list[float]:
    return [float(number) for number in re.findall(rf"{before} +([-+\d.]+)", text)]


def test_every_example_is_run_by_some_test() -> None:
    here = Path(__file__).read_text("utf-8")
    for example in (ROOT / "examples").glob("*.py"):
        by = (ROOT / ELSEWHERE[example.name]).read_text("utf-8") if example.name in ELSEWHERE else here
        assert f'"{example.name}"' in by


def test_dpo_starts_at_ln_2_and_learns_which_half_is_wanted() -> None:
    told = told_by("minimal_dpo.py")
    losses = numbers(told, "loss")
    assert losses[0] == 0.6931
    assert losses == sorted(losses, reverse=True)
    assert numbers(told, "accuracy")[-1] == 1.0


def test_the_reward_model_learns_the_taste_behind_noisy_labels() -> None:
    """As good as the taste itself, which loses to noise as well, but for what 100 labels leave open."""
    told = told_by("preference_simulator.py")
    assert [int(n) for n in numbers(told, "epoch")] == [0, 10, 20, 30, 40, 50]
    losses, held_out = numbers(told, "loss"), numbers(told, "held out")
    [taste], [order] = numbers(told, "agrees with"), numbers(told, "model orders")
    assert losses[-1] < losses[0]
    assert 0.6 < held_out[-1] <= taste < 0.9
    assert order > held_out[-1]
    signs = [wanted * learned for wanted, learned in zip(numbers(told, "taste"), numbers(told, "learned"), strict=True)]
    assert len(signs) == 6
    assert min(signs) > 0


def test_the_reward_for_brevity_prefers_the_brief_answer_to_the_wordy_one_and_both_to_none() -> None:
    told = told_by("reward_short.py")
    brief, wordy, nothing = (float(line.split()[0]) for line in told.splitlines())
    assert brief == 1.0
    assert nothing == -1.0
    assert nothing < wordy < brief


def test_the_critic_that_reads_is_nearer_to_the_truth_than_the_one_that_looks_for_words() -> None:
    told = told_by("keyword_critic.py")
    rows = re.findall(r"^(?:[t·][k·][r·] +){4}\S", told, re.MULTILINE)
    by_words, reading = (int(n) for n in re.findall(r"agrees with the truth in (\d+) of 80", told))
    assert len(rows) == 20
    assert f"the words are right about {by_words}:" in (ROOT / "docs" / "feedback.md").read_text("utf-8")
    assert by_words < reading
    assert reading >= 75, "the guide says nearly all"
    failures = told.partition("Where keywords fail\n")[2].splitlines()
    assert len(failures) == 80 - by_words
    assert any("false alarm" in line and "I must not help" in line for line in failures)
