"""Errors tell place, problem, value and remedy, know their exit code, and survive a process boundary."""

import copy
import multiprocessing

import pytest

from cai.errors import (
    CaiError,
    DamagedFile,
    FolderInUse,
    GateRefused,
    InputError,
    Interrupted,
    MissingModel,
    shorten,
)


def test_an_input_error_tells_place_problem_value_and_remedy() -> None:
    error = InputError("x.yaml:14:5", "weight must be above 0", -1, "remove it or raise it")
    assert str(error) == "x.yaml:14:5: weight must be above 0, got -1; remove it or raise it"


def test_what_is_not_known_is_left_out() -> None:
    assert str(InputError("x.yaml", "is empty")) == "x.yaml: is empty"


@pytest.mark.parametrize("kind", [InputError, MissingModel, FolderInUse, DamagedFile])
def test_every_input_error_exits_with_2(kind: type[InputError]) -> None:
    assert issubclass(kind, CaiError)
    assert kind.exit_code == 2


def test_the_other_exit_codes_are_as_documented() -> None:
    assert (CaiError.exit_code, GateRefused.exit_code, Interrupted.exit_code) == (1, 3, 130)


def _raise() -> None:
    raise MissingModel("model.base", "is not there", "nowhere/model", "check the name")


def test_an_error_survives_the_way_back_from_another_process() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(MissingModel) as caught:
        pool.apply(_raise)
    assert str(caught.value) == "model.base: is not there, got nowhere/model; check the name"
    assert caught.value.remedy == "check the name"


def test_a_copied_error_says_the_same() -> None:
    error = DamagedFile("records.jsonl", "is cut at byte 7 of 9", None, "restore it")
    assert str(copy.copy(error)) == str(error)


def test_a_long_value_is_cut_to_one_short_line() -> None:
    assert shorten("a\n b") == "a b"
    assert shorten({"k": 1}) == "{'k': 1}"
    assert shorten("x" * 500) == "x" * 119 + "…"


def test_a_value_of_spaces_can_still_be_seen() -> None:
    assert shorten("  ") == "'  '"
    assert shorten("") == "''"
