"""docs/cli.md, from what the commands say of themselves. `python -m tests.cli.reference` writes it anew."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = (
    "",
    "plan",
    "run",
    "train",
    "status",
    "trace",
    "revise",
    "chat",
    "constitution",
    "constitution lint",
    "constitution show",
    "constitution diff",
    "constitution import",
    "model",
    "model quantization",
    "model export",
    "data",
    "data import",
    "data export",
    "data filter",
    "data check",
    "data stats",
    "data card",
    "data sample",
    "judge",
    "judge card",
    "judge label",
    "prompts",
    "prompts make",
    "doctor",
    "init",
    "serve",
)
HEAD = """# The command line

Every command says this with `--help`. Exit codes: 0 done, 1 failed, 2 bad input, 3 a quality gate refused,
130 interrupted (the same command goes on from there). Errors are one line on standard error; what `--json` prints is
for programs, one value a line.
"""


def reference() -> str:
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(help_of, COMMANDS))
    parts = [
        f"## cai {name}".rstrip() + f"\n\n```text\n{text}\n```\n" for name, text in zip(COMMANDS, told, strict=True)
    ]
    return "\n".join([HEAD, *parts])


def help_of(command: str) -> str:
    """The help text as a terminal of 100 columns without colours shows it."""
    code = "import sys; sys.argv[0] = 'cai'; from cai.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"],
        env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
