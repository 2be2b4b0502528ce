"""The guide to constitutions says what is: its example loads, its commands run, its rules are the rules."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.constitution.lint import RULES, lint
from cai.constitution.loading import parse_constitution

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "constitutions.md").read_text("utf-8")


def test_the_example_of_the_guide_lints_clean() -> None:
    found = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    assert lint(parse_constitution(found[1], "guide.yaml")) == []


def test_every_command_of_the_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^    cai (.+)$", GUIDE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        told = command.replace("OLD.yaml", "constitutions/tiny.yaml").replace("NEW.yaml", "constitutions/honesty.yaml")
        assert CliRunner().invoke(app, shlex.split(told)).exit_code == 0, command


def test_the_guide_lists_every_rule_under_its_severity() -> None:
    for severity in ("error", "warning", "advice"):
        row = re.search(rf"^\| {severity} \| (.*) \|$", GUIDE, re.MULTILINE)
        assert row
        assert re.findall(r"`([a-z-]+)`", row[1]) == [name for name, rule in RULES.items() if rule.severity == severity]
