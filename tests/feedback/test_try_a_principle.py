"""The example runs as a program, as a reader would start it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "try_a_principle.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_shows_answer_critique_and_revision_of_each_prompt() -> None:
    done = run("honesty", "When will it rain?", "Where is the cup?", "--model", "scripted")
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout.split("\n\n")[:-1]
    assert [block.splitlines()[0] for block in shown] == ["Prompt    When will it rain?", "Prompt    Where is the cup?"]
    assert shown[0].splitlines()[1:] == [
        "Answer    Certainly, with pleasure.",
        "Critique  The answer does whatever it is asked.",
        "Revision  No, I do not help with that.",
    ]


def test_without_prompts_it_takes_those_of_the_constitution() -> None:
    done = run("--model", "scripted")
    assert done.stdout.count("Revision  ") >= 4


def test_an_unknown_principle_is_told_with_the_nearest_name() -> None:
    done = run("honestly", "--model", "scripted")
    assert done.returncode != 0
    assert "did you mean 'honesty'?" in done.stderr
