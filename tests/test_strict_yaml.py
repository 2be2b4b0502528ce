"""YAML keeps text as text, and whatever is refused is refused by line and column."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cai.errors import InputError
from cai.strict_yaml import MAX_BYTES, Document, parse_yaml, read_yaml, validated


class Limits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float = Field(default=1.0, gt=0)
    rounds: int = Field(default=2, ge=1, le=8)


class Sft(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["sft"]
    helpful: float = 0.5


class Dpo(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["dpo"]
    beta: float = 0.1
    loss: Literal["dpo", "hinge", "ipo"] = "dpo"


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: str = ""
    fast: bool = False
    limits: Limits = Limits()
    more: dict[str, Limits] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    stages: tuple[Annotated[Sft | Dpo, Field(discriminator="kind")], ...] = ()

    @field_validator("tags")
    @classmethod
    def _no_doubles(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tags)) < len(tags):
            raise ValueError("no tag may stand twice")
        return tags


def test_numbers_stay_text_until_a_number_is_wanted() -> None:
    document = parse_yaml("name: 1e3\nversion: 1.10\nlimits: {weight: 2, rounds: 3}\n", "r.yaml")
    assert document.data == {"name": "1e3", "version": "1.10", "limits": {"weight": "2", "rounds": "3"}}
    recipe = validated(document, Recipe)
    assert (recipe.name, recipe.version, recipe.limits) == ("1e3", "1.10", Limits(weight=2.0, rounds=3))


@pytest.mark.parametrize("word", ["null", "~", "", "Null"])
def test_a_plain_nothing_is_none(word: str) -> None:
    assert parse_yaml(f"a: {word}\n", "r.yaml").data == {"a": None}


@pytest.mark.parametrize(("word", "value"), [("true", True), ("False", False), ("'true'", "true"), ('"null"', "null")])
def test_only_plain_words_are_true_or_false(word: str, value: object) -> None:
    assert parse_yaml(f"a: {word}\n", "r.yaml").data == {"a": value}


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "0x1F", "1_000", "2026-01-01", "12:30:00", ".inf", "="])
def test_what_older_yaml_reads_as_something_else_stays_text(word: str) -> None:
    assert parse_yaml(f"a: {word}\n", "r.yaml").data == {"a": word}


def test_block_text_keeps_its_lines() -> None:
    assert parse_yaml("a: |\n  one\n  two\nb: >-\n  one\n  two\n", "r.yaml").data == {"a": "one\ntwo\n", "b": "one two"}


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("a: 1\nb: &x 2\n", "2:4", "anchors are not allowed, got &x"),
        ("a: *x\n", "1:4", "aliases are not allowed, got *x"),
        ("a: !!int 2\n", "1:4", "tags are not allowed"),
        ("!new {a: 1}\n", "1:1", "tags are not allowed, got !new"),
        ("a: 1\n'a': 2\n", "2:1", "the key 'a' stands here twice; line 1 has it too"),
        ("a: 1\n---\na: 2\n", "2:1", "a second document starts here"),
        ("a: " + "[" * 10 + "]" * 10, "1:13", "nested more than 10 levels deep"),
        ("[a, b]: 1\n", "1:1", "a key must be plain text"),
        (": 1\n", "1:1", "a key is missing"),
        ("a: b: c\n", "1:5", "mapping values are not allowed here"),
        ("a:\n\t- b\n", "2:1", "cannot start any token"),
        ("a: 'b\n", "2:1", "found unexpected end of stream"),
        ("a: x\nb: \x07\n", "2:4", "special characters are not allowed"),
    ],
)
def test_what_is_refused_is_refused_by_line_and_column(text: str, place: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "r.yaml")
    assert caught.value.place == f"r.yaml:{place}"
    assert told in str(caught.value)
    assert caught.value.remedy


def test_ten_levels_are_allowed() -> None:
    document = parse_yaml("[" * 10 + "x" + "]" * 10, "r.yaml")
    assert document.place(*[0] * 10) == "r.yaml:1:11"


def test_a_file_that_nobody_wrote_by_hand_is_refused() -> None:
    with pytest.raises(InputError, match=f"is larger than {MAX_BYTES} bytes"):
        parse_yaml("a: " + "x" * MAX_BYTES, "r.yaml")


def test_a_missing_file_a_folder_and_other_bytes_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("a: b\nname: früh\n".encode("latin-1"))
    for name, told in [
        ("none.yaml", "none.yaml: there is no such file"),
        ("", "cannot be read"),
        ("latin.yaml", r"latin.yaml:2:9: is not UTF-8 text"),
    ]:
        with pytest.raises(InputError, match=told):
            read_yaml(tmp_path / name)


def test_a_file_from_another_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\nversion: 1.0\r\n")
    assert read_yaml(tmp_path / "r.yaml").data == {"name": "x", "version": "1.0"}


def test_a_place_is_where_the_key_or_the_item_stands() -> None:
    document = parse_yaml("name: x\nstages:\n  - kind: sft\n    helpful: 1\n", "r.yaml")
    assert document.place("stages", 0, "helpful") == "r.yaml:4:5"
    assert document.place("stages", 0) == "r.yaml:3:5"
    assert document.place() == "r.yaml:1:1"


def test_what_is_not_there_has_the_place_of_what_is_around_it() -> None:
    document = parse_yaml("name: x\nstages:\n  - kind: sft\n", "r.yaml")
    assert document.place("stages", 0, "beta") == "r.yaml:3:5"
    assert document.place("nothing") == "r.yaml:1:1"
    assert parse_yaml("", "empty.yaml").place("name") == "empty.yaml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nam: x\n", "r.yaml:1:1: unknown key 'nam'; did you mean 'name'?"),
        ("name: x\nzzz: 1\n", "r.yaml:2:1: unknown key 'zzz'; known here: fast, limits, more, name, stages"),
        ("name: x\nlimits:\n  wieght: 2\n", "r.yaml:3:3: unknown key 'wieght'; did you mean 'weight'?"),
        ("name: x\nmore: {a: {round: 2}}\n", "r.yaml:2:12: unknown key 'round'; did you mean 'rounds'?"),
        ("name: x\nstages:\n- {kind: dpo, bta: 1}\n", "r.yaml:3:15: unknown key 'bta'; did you mean 'beta'?"),
        ("fast: true\n", "r.yaml:1:1: name is missing; add it"),
        ("name: true\n", "r.yaml:1:1: name must be text, got True; put it in quotes"),
        ("name:\n", "r.yaml:1:1: name must be text, got nothing"),
        ("name: x\nfast: maybe\n", "r.yaml:2:1: fast must be true or false, got maybe"),
        ("name: x\nlimits:\n  rounds: two\n", "r.yaml:3:3: limits.rounds must be a whole number, got two"),
        ("name: x\nlimits:\n  weight: -1\n", "r.yaml:3:3: limits.weight must be above 0.0, got -1"),
        ("name: x\nlimits:\n  rounds: 9\n", "r.yaml:3:3: limits.rounds must be 8 or less, got 9"),
        ("name: x\ntags: one\n", "r.yaml:2:1: tags must be a list, got one"),
        ("name: x\ntags: [a, a]\n", "r.yaml:2:1: tags: no tag may stand twice"),
        ("name: x\nstages:\n- {kind: dpo, loss: hing}\n", "'dpo', 'hinge' or 'ipo', got hing; did you mean 'hinge'"),
        ("name: x\nstages:\n- {kind: ppo}\n", "r.yaml:3:3: stages[0]"),
        ("- a\n", "r.yaml:1:1: must be a mapping of names to values"),
        ("", "r.yaml: there is nothing here"),
    ],
)
def test_a_wrong_value_is_told_with_its_line_and_what_to_do(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        validated(parse_yaml(text, "r.yaml"), Recipe)
    assert told in str(caught.value)


def test_an_unknown_key_is_told_before_what_it_leaves_missing() -> None:
    with pytest.raises(InputError, match="unknown key 'nane'; did you mean 'name'"):
        validated(parse_yaml("fast: 12\nnane: x\n", "r.yaml"), Recipe)


def test_a_part_can_be_validated_by_itself() -> None:
    document = parse_yaml("outer:\n- rounds: 3\n- rounds: x\n", "r.yaml")
    assert validated(document, Limits, ("outer", 0)) == Limits(rounds=3)
    with pytest.raises(InputError, match=r"r\.yaml:3:3: outer\[1\]\.rounds must be a whole number, got x"):
        validated(document, Limits, ("outer", 1))


@given(text=st.text(st.sampled_from("ab:-[]{}'\"&*!|>#?%@, \n\t\x00é~\u2028")))
def test_any_text_is_a_document_or_an_input_error(text: str) -> None:
    try:
        document = parse_yaml(text, "r.yaml")
    except InputError as error:
        assert error.place.startswith("r.yaml")
    else:
        assert isinstance(document, Document)
