"""What a constitution's file may hold, and how each fault is told: place, problem, value and remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cai.constitution.loading import MAX_ANSWER, MAX_TEXT, MAX_TITLE, parse_constitution
from cai.constitution.model import load_constitution
from cai.errors import InputError

WEIGHT = "    weight: 2"
FAULTS = {
    "negative weight": (
        (WEIGHT, "    weight: -1"),
        "x.yaml:9:5: principle 'no-invention': weight must be positive, got -1; remove it or set it above 0",
    ),
    "weight of zero": (
        (WEIGHT, "    weight: 0.0"),
        "x.yaml:9:5: principle 'no-invention': weight must be positive, got 0.0; remove it or set it above 0",
    ),
    "endless weight": ((WEIGHT, "    weight: inf"), "x.yaml:9:5: principle 'no-invention': weight must be a number"),
    "weight that is no number": ((WEIGHT, "    weight: nan"), "weight must be a number, got nan"),
    "weight that is true": ((WEIGHT, "    weight: true"), "weight must be a number, got True"),
    "weight in words": ((WEIGHT, "    weight: heavy"), "x.yaml:9:5: principles[0].weight must be a number, got heavy"),
    "huge weight": ((WEIGHT, "    weight: 1e7"), "weight must be at most 1000000, got 1e7"),
    "id twice": (
        ("to-the-point", "no-invention"),
        "x.yaml:12:5: principle 'no-invention' stands here twice; line 5 has it too; rename or remove one",
    ),
    "id of another form": (("id: to-the-point", "id: To the point"), "x.yaml:12:5: a principle's id has another form"),
    "id of the constitution": (("id: sample", "id: ../sample"), "x.yaml:1:1: the constitution's id has another form"),
    "endless id": (("id: to-the-point", f"id: {'a' * 65}"), "a principle's id has another form"),
    "short version": (
        ("version: 1.2.0", "version: 1.10"),
        "x.yaml:2:1: version must be a semantic version, got 1.10; write three numbers, like 1.2.0",
    ),
    "version with a v": (("version: 1.2.0", "version: v1.2.0"), "version must be a semantic version, got v1.2.0"),
    "no version": (("version: 1.2.0\n", ""), "version is missing; add it"),
    "unknown key": (("critique: Point", "critic: Point"), "x.yaml:6:5: unknown key 'critic'; did you mean 'critique'?"),
    "text that is true": (
        ("critique: Does the last answer wander off?", "critique: true"),
        "x.yaml:13:5: principles[1].critique must be text, got True",
    ),
    "long text": (("wander off", "wander " + "off " * 700), "critique has more than 2000 characters, got 28"),
    "long title": (("A sample", "A" * 201), "x.yaml:3:1: the constitution title has more than 200 characters, got 201"),
    "control character": (("A sample", '"A \\a sample"'), "the constitution title holds a control character"),
    "carriage return": (("A sample", '"A\\rsample"'), "holds a control character, got '\\r'; remove it"),
    "empty test": (("better: Goethe wrote it.", 'better: " "'), "principle 'no-invention': a test's better is empty"),
    "test without worse": ((", worse: Schiller wrote it in 1771.", ""), "principles[0].tests[0].worse is missing"),
    "example of an unknown principle": (
        ("principle: to-the-point", "principle: to-the-pont"),
        "x.yaml:20:8: the example names a principle that is not here, got to-the-pont; did you mean 'to-the-point'?",
    ),
    "empty example": (("worse: Goethe.", 'worse: ""'), "the example's worse is empty"),
    "key twice": (("title: A sample", "title: A\ntitle: B"), "the key 'title' stands here twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_place_value_and_remedy(sample_text: str, fault: str) -> None:
    (old, new), told = FAULTS[fault]
    assert old in sample_text
    with pytest.raises(InputError) as caught:
        parse_constitution(sample_text.replace(old, new, 1), "x.yaml")
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("principles", ["principles: []", "principles:", "{}"])
def test_a_constitution_without_principles_is_refused(principles: str) -> None:
    with pytest.raises(InputError, match="principles"):
        parse_constitution(f"id: empty\nversion: 1.0.0\n{principles if principles != '{}' else ''}", "x.yaml")


@pytest.mark.parametrize("text", ["", "just words", "- a\n- list", "id: [1, 2]"])
def test_what_is_no_constitution_at_all_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"x\.yaml"):
        parse_constitution(text, "x.yaml")


@pytest.mark.parametrize("kept", ["critique: Look.", "revision: Mend it."])
def test_a_principle_that_could_never_be_used_is_refused(kept: str) -> None:
    with pytest.raises(InputError, match="principle 'half' could never be used; write a preference, or"):
        parse_constitution(f"id: x\nversion: 1.0.0\nprinciples:\n  - id: half\n    {kept}\n", "x.yaml")


@pytest.mark.parametrize("texts", ["preference: Which is it?", "critique: Look.\n    revision: Mend it."])
def test_a_principle_for_one_use_alone_is_kept(texts: str) -> None:
    read = parse_constitution(f"id: x\nversion: 1.0.0\nprinciples:\n  - id: half\n    {texts}\n", "x.yaml")
    assert [read.principles[0].serves("revise"), read.principles[0].serves("judge")].count(True) == 1


def test_texts_of_the_largest_size_are_taken(sample_text: str) -> None:
    text = sample_text.replace("A sample", "A" * MAX_TITLE).replace("Does the last answer wander off?", "b" * MAX_TEXT)
    read = parse_constitution(text.replace("Goethe wrote it.", "c" * MAX_ANSWER), "x.yaml")
    assert (len(read.title), len(read.principle("to-the-point").critique)) == (MAX_TITLE, MAX_TEXT)
    assert len(read.principle("no-invention").tests[0].better) == MAX_ANSWER


def test_everything_that_is_written_is_read(sample_text: str) -> None:
    read = parse_constitution(sample_text, "x.yaml")
    assert (read.id, read.version, read.title, read.path) == ("sample", "1.2.0", "A sample", "x.yaml")
    first, second = read.principles
    assert (first.id, first.weight, first.line) == ("no-invention", 2.0, 5)
    assert (second.id, second.weight, second.line) == ("to-the-point", 1.0, 12)
    assert first.critique == "Point out claims in the last answer that are made up."
    assert second.revision == "Begin with what was asked for, and end there."
    assert first.preference == "Which answer holds fewer made-up claims?"
    assert (first.line_of("preference"), second.line_of("weight")) == (8, 12)
    assert (first.tests[0].prompt, first.tests[0].worse) == ("Who wrote Faust?", "Schiller wrote it in 1771.")
    assert (second.tests[0].line, second.tests[0].better) == (17, "Yes, it is.")
    assert (read.critiques[0].principle, read.critiques[0].revision, read.critiques[0].line) == (
        "to-the-point",
        "No.",
        20,
    )
    assert (read.comparisons[0].better, read.comparisons[0].worse) == ("Shakespeare.", "Goethe.")


def test_a_weight_and_a_version_may_look_like_numbers(written: Callable[..., Path]) -> None:
    read = load_constitution(written((WEIGHT, '    weight: "2.50"'), ("version: 1.2.0", 'version: "1.10.0"')))
    assert (read.principle("no-invention").weight, read.version) == (2.5, "1.10.0")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_constitution(tmp_path / "none.yaml")


def test_an_unknown_principle_is_told_with_its_neighbour(sample_text: str) -> None:
    with pytest.raises(InputError, match=r"no such principle, got no-inventions; did you mean 'no-invention'\?"):
        parse_constitution(sample_text, "x.yaml").principle("no-inventions")
