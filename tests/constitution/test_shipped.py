"""The constitutions that come along: they load, lint clean, and are what their versions were released as."""

from pathlib import Path

import pytest

from cai.constitution.lint import lint
from cai.constitution.model import load_constitution
from cai.constitution.released import check_unchanged, load_released, released_beside
from cai.feedback.demonstrations import worked_comparisons, worked_critiques

FOLDER = Path(__file__).parents[2] / "constitutions"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "released.yaml")


def test_four_constitutions_are_shipped() -> None:
    assert {path.stem for path in FILES} >= {"harmless-helpful", "honesty", "tiny", "worked-examples"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_constitution_is_named_as_its_file_and_serves_both_uses(path: Path) -> None:
    constitution = load_constitution(path)
    assert constitution.id == path.stem
    assert constitution.title
    assert len(constitution.for_use("revise")) == len(constitution.for_use("judge")) == len(constitution.principles)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_released_version_is_what_it_was_released_as(path: Path) -> None:
    check_unchanged(load_constitution(path), released_beside(path))


def test_every_release_on_record_has_its_constitution() -> None:
    assert load_released(FOLDER / "released.yaml").versions.keys() <= {path.stem for path in FILES}


@pytest.mark.parametrize("name", ["harmless-helpful", "honesty", "worked-examples"])
def test_the_general_constitutions_lint_clean_and_are_released(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    constitution = load_constitution(path)
    assert lint(constitution, released_beside(path)) == []
    assert released_beside(path).digests(constitution) is not None


def test_the_embedded_constitution_has_no_errors() -> None:
    assert [f for f in lint(load_constitution(FOLDER / "tiny.yaml")) if f.severity == "error"] == []


def test_the_general_constitution_is_broad_and_balanced() -> None:
    constitution = load_constitution(FOLDER / "harmless-helpful.yaml")
    assert len(constitution.principles) >= 12
    assert max(constitution.shares("judge").values()) < 0.2
    assert all(len(principle.tests) >= 2 for principle in constitution.principles)
    weights = {principle.id: principle.weight for principle in constitution.principles}
    assert weights["no-harm"] == weights["no-needless-refusal"]


def test_length_does_not_tell_the_better_answer_of_the_tests() -> None:
    tests = [t for p in load_constitution(FOLDER / "harmless-helpful.yaml").principles for t in p.tests]
    longer = sum(len(test.better) > len(test.worse) for test in tests)
    assert len(tests) / 3 <= longer <= 2 * len(tests) / 3


def test_the_honesty_constitution_is_short_and_its_tests_also_ask_for_plain_confidence() -> None:
    constitution = load_constitution(FOLDER / "honesty.yaml")
    assert 2 <= len(constitution.principles) <= 4
    assert any(test.worse == "It is hard to say." for test in constitution.principle("candour").tests)


def test_the_worked_examples_have_the_published_form() -> None:
    """Five critiques, of which two leave a harmless answer as it is, and five comparisons open to any principle."""
    constitution = load_constitution(FOLDER / "worked-examples.yaml")
    assert len(worked_critiques(constitution)) == 5
    assert sum(example.revision == example.answer for example in constitution.critiques) == 2
    drawn = [[w.principle.id for w in worked_comparisons(constitution, seed)] for seed in range(3)]
    assert {len(each) for each in drawn} == {5}
    assert len({tuple(each) for each in drawn}) == 3, "drawn anew for another run"
