"""`cai data` and `cai constitution import` as people use them; the guide's commands among them."""

import json
import re
from pathlib import Path

from tests.cli.conftest import TESTS, Cai

ROWS = [
    {"prompt": f"Why is the sky blue, child {i}?", "chosen": f"Because of air {i}.", "rejected": "No."}
    for i in range(9)
]


def write_rows(project: Path) -> None:
    lines = [json.dumps(row) for row in ROWS] + ['{"prompt": 1, "chosen": "a", "rejected": "b"}']
    (project / "pairs.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (project / "principles.md").write_text(
        "- Be kind to children and animals.\n- Be honest about what you know.\n", "utf-8"
    )


def test_every_command_of_the_guide_runs(cai: Cai, project: Path) -> None:
    write_rows(project)
    guide = (TESTS.parent / "docs" / "data.md").read_text("utf-8")
    commands = re.findall(r"^    cai (.+)$", guide, re.MULTILINE)
    assert len(commands) == 8
    told = {command: cai(*command.split()).stdout for command in commands}
    assert "9 preferences" in told["data import pairs.jsonl --out imported"]
    assert (project / "exported" / "README.md").read_text("utf-8").startswith("---\nlicense:")
    assert "9 stay" in told["data filter imported --out filtered"] or "near duplicate" in str(told)
    assert "2 principles from Markdown" in told["constitution import principles.md --out new.yaml"]
    assert cai("constitution", "lint", "new.yaml").returncode == 0


def test_a_wrong_row_is_named_and_check_exits_with_1(cai: Cai, project: Path) -> None:
    write_rows(project)
    found = json.loads(cai("data", "check", "pairs.jsonl", "--json", code=1).stdout)
    assert found[0]["what"] == "unreadable row"
    assert found[0]["examples"] == ["pairs.jsonl:10: prompt: must be text, got 1"]


def test_json_is_one_value_a_line(cai: Cai, project: Path) -> None:
    write_rows(project)
    done = json.loads(cai("data", "import", "pairs.jsonl", "--out", "in", "--json").stdout)
    assert (done["inputs"], done["outputs"], done["rejects"]) == (10, 9, {"wrong field": 1})
    stats = json.loads(cai("data", "stats", "in", "--json").stdout)
    assert (stats["rows"], stats["prompts"], stats["kinds"]) == (9, 9, {"preferred": 9})
    rows = cai("data", "sample", "in", "-n", "4", "--json").stdout.splitlines()
    assert len({json.loads(row)["prompt"]["id"] for row in rows}) == 4
    exported = json.loads(cai("data", "export", "in", "--to", "openai", "--out", "out", "--json").stdout)
    assert exported["outputs"] == 9


def test_a_row_cannot_steer_the_terminal(cai: Cai, project: Path) -> None:
    row = {"prompt": "Hi\u001b[2J?", "chosen": "\u202eolleH [bold]x[/bold]", "rejected": "\u0007No."}
    (project / "evil.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    shown = cai("data", "sample", "evil.jsonl").stdout
    assert "\\x1b[2J" in shown
    assert "[bold]x[/bold]" in shown
    assert not {"\u001b", "\u202e", "\u0007"} & set(shown)


def test_bad_input_is_one_line_and_exit_code_2(cai: Cai, project: Path) -> None:
    (project / "odd.jsonl").write_text('{"colour": "blue"}\n', "utf-8")
    for arguments, says in (
        (("data", "import", "absent.jsonl", "--out", "x"), "absent.jsonl: cannot be read"),
        (("data", "import", "odd.jsonl", "--out", "x"), "has no layout that is known, got colour"),
        (("data", "stats", "."), "is no data"),
        (("constitution", "import", "odd.jsonl", "--out", "x.yaml"), "has no layout that is known"),
    ):
        done = cai(*arguments, code=2)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
