"""The example that runs a pipeline from Python does what it says."""

import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import ENVIRONMENT, TESTS

EXAMPLE = TESTS.parent / "examples" / "run_from_python.py"


def test_the_example_runs_every_stage_and_tells_what_came_of_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--out", "run", "--prompts", "8", "--tests", "4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    stages = ["01-revise", "02-prefer", "03-sft", "04-prefer", "05-dpo", "06-evaluate"]
    assert [line.split()[0] for line in lines[:6]] == stages
    assert [line.split(":")[0] for line in lines[6:8]] == ["base", "tuned"]
    assert any(line.startswith("harmful_compliance ") for line in lines[8:])
    assert (tmp_path / "run" / "report.html").exists()
