"""docs/cli.md, from what the commands say of themselves. `python -m tests.cli.reference` writes it anew."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
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


TELL = """
import contextlib, io, json, sys
from cai.cli.main import run

told = []
for command in json.load(sys.stdin):
    sys.argv = ["cai", *command.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            run()
        except SystemExit as end:
            assert not end.code, f"cai {command} --help ended with {end.code}"
    told.append(out.getvalue())
json.dump(told, sys.stdout)
"""


def reference() -> str:
    parts = [
        f"## cai {name}".rstrip() + f"\n\n```text\n{text}\n```\n"
        for name, text in zip(COMMANDS, helps(COMMANDS), strict=True)
    ]
    return "\n".join([HEAD, *parts])


def helps(commands: Sequence[str]) -> list[str]:
    """Their help texts as a terminal of 100 columns without colours shows them: widths are fixed on import."""
    done = subprocess.run(
        [sys.executable, "-c", TELL],
        env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in json.loads(done.stdout)]


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
