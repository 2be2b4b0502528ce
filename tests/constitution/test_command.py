"""`cai constitution` as people and programs call it: what it prints, and what it returns to the shell."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli.constitution import constitution_app
from cai.constitution.model import load_constitution
from cai.constitution.released import entry_for
from cai.errors import InputError

Write = Callable[..., Path]


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(constitution_app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    return result.exit_code, result.stdout


def test_lint_says_that_a_clean_file_is_clean(written: Write) -> None:
    assert call("lint", written()) == (0, "1 file: nothing to say\n")


def test_lint_fails_on_errors_and_prints_one_line_for_each_finding(written: Write) -> None:
    path = written(("Does the last answer wander off?", "TODO find where it wanders"))
    code, printed = call("lint", path)
    assert code == 1
    lines = printed.splitlines()
    message = "principle 'to-the-point': the critique holds 'TODO'; write what is meant"
    assert f"{path}:13: error [placeholder-text] {message}" in lines
    assert lines[-1] == "1 file: 1 error, 0 warnings, 1 of advice"


def test_lint_fails_on_warnings_only_when_strict(written: Write) -> None:
    path = written(("Replace what is made up with what is known.", "Do not invent."))
    assert call("lint", path)[0] == 0
    assert call("lint", "--strict", path)[0] == 1
    assert call("lint", "--strict", "--ignore", "negative-only", path)[0] == 0


def test_lint_tells_programs_the_same(written: Write) -> None:
    path = written(("Replace what is made up with what is known.", "Do not invent."))
    code, printed = call("lint", "--json", path, written(name="clean.yaml"))
    told = json.loads(printed)
    assert code == 0
    assert told["counts"] == {"error": 0, "warning": 1, "advice": 0}
    assert [len(file["findings"]) for file in told["files"]] == [1, 0]
    finding = told["files"][0]["findings"][0]
    assert (finding["rule"], finding["severity"], finding["line"]) == ("negative-only", "warning", 7)


def test_lint_reads_the_record_beside_the_file_or_the_one_it_is_given(written: Write, tmp_path: Path) -> None:
    record = tmp_path / "released.yaml"
    record.write_text(entry_for(load_constitution(written())), "utf-8")
    changed = written(("wander off", "ramble"))
    code, printed = call("lint", changed)
    assert (code, "[changed-release]" in printed) == (1, True)
    (tmp_path / "other.yaml").write_text("# nothing\n", "utf-8")
    assert call("lint", changed, "--released", tmp_path / "other.yaml")[0] == 0
    assert call("lint", record, written())[0] == 0


@pytest.mark.parametrize("command", ["lint", "show"])
def test_a_file_that_cannot_be_used_is_refused_with_its_line(written: Write, command: str) -> None:
    path = written(("weight: 2", "weight: -2"))
    with pytest.raises(InputError, match=r"sample\.yaml:9:5: principle 'no-invention': weight must be positive"):
        call(command, path)


def test_an_unknown_rule_is_refused(written: Write) -> None:
    with pytest.raises(InputError, match="did you mean 'vague-text'"):
        call("lint", "--ignore", "vague-txt", written())


def test_show_prints_texts_shares_and_digests(written: Write) -> None:
    path = written()
    code, printed = call("show", path)
    constitution = load_constitution(path)
    assert code == 0
    assert printed.startswith("sample 1.2.0  A sample\n")
    assert f"behaviour  {constitution.behaviour_digest}" in printed
    assert f"release    {constitution.release_digest}" in printed
    assert "2 principles, 2 tests, 2 examples, not released" in printed
    assert "no-invention  weight 2, share 0.667" in printed
    assert "preference Which answer comes to the point sooner?" in printed
    assert entry_for(constitution) in printed


def test_show_tells_shares_by_use_where_they_differ_and_what_is_released(written: Write, tmp_path: Path) -> None:
    path = written(("    preference: Which answer comes to the point sooner?\n", ""))
    (tmp_path / "released.yaml").write_text(entry_for(load_constitution(path)), "utf-8")
    printed = call("show", path)[1]
    assert "share 0.667 where principles revise, share 1.000 where principles judge" in printed
    assert "2 examples, released\n" in printed
    path.write_text(path.read_text("utf-8").replace("A sample", "Another"), "utf-8")
    assert "released, but its title or tests have changed since" in call("show", path)[1]


def test_show_tells_programs_everything(written: Write) -> None:
    path = written()
    told = json.loads(call("show", "--json", path)[1])
    constitution = load_constitution(path)
    assert told["behaviour_digest"] == constitution.behaviour_digest
    assert [p["id"] for p in told["principles"]] == ["no-invention", "to-the-point"]
    assert told["principles"][0]["shares"] == {"revise": 2 / 3, "judge": 2 / 3}
    assert told["principles"][1]["tests"][0]["better"] == "Yes, it is."
    assert told["examples"]["comparisons"][0]["worse"] == "Goethe."
    assert told["state"] == "not released"


def test_diff_marks_words_and_names_the_step(written: Write) -> None:
    new = written(
        ("made-up claims?", "invented claims?"), ("weight: 2", "weight: 1"), ("A sample", "Another"), name="new.yaml"
    )
    code, printed = call("diff", written(), new)
    assert code == 0
    lines = printed.splitlines()
    assert "reworded   no-invention, preference: Which answer holds fewer [-made-up-] {+invented+} claims?" in lines
    assert "reweighted no-invention: 2 to 1, share 0.667 to 0.500" in lines
    assert "changed    the title" in lines
    assert "1.2.0 to 1.2.0: calls for a minor step" in lines
    assert lines[-1].startswith("warning: these changes call for a minor step, at least 1.3.0")


def test_diff_fails_on_too_small_a_step_only_when_strict(written: Write) -> None:
    old, new = written(), written(("A sample", "Another"), name="new.yaml")
    assert call("diff", old, new)[0] == 0
    assert call("diff", "--strict", old, new)[0] == 1
    stepped = written(("A sample", "Another"), ("1.2.0", "1.2.1"), name="newer.yaml")
    assert call("diff", "--strict", old, stepped)[0] == 0


def test_diff_of_equal_files_shows_no_change(written: Write) -> None:
    assert call("diff", written(), written(name="same.yaml")) == (0, "1.2.0 to 1.2.0: nothing changed\n")


def test_diff_tells_programs_the_same(written: Write) -> None:
    new = written(
        ("id: to-the-point", "id: at-once"), ("principle: to-the-point", "principle: at-once"), name="new.yaml"
    )
    told = json.loads(call("diff", "--json", written(), new)[1])
    assert (told["added"], told["removed"], told["step"]) == (["at-once"], ["to-the-point"], "major")
    assert told["examples_changed"] is True
    assert told["warning"]
