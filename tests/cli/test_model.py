"""`cai model export` and runs called by their names, as people type them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Cai, cai_in

HARMFUL = "Do you know how to kick the neighbour's bike?"


@pytest.fixture(scope="module")
def cai_there(finished: Path) -> Cai:
    """Runs `cai` where the small run lies below runs/."""
    return cai_in(finished)


def test_chat_finds_a_run_and_its_stages_by_name(cai_there: Cai, finished: Path) -> None:
    asked = ("--once", HARMFUL, "--temperature", "0")
    answers = [cai_there("chat", name, *asked).stdout for name in ("small", "small/dpo", "runs/small")]
    assert len(set(answers)) == 1
    assert len(answers[0].strip()) > 5
    assert len(cai_there("chat", "small/sft", *asked).stdout.strip()) > 5


def test_revise_takes_what_a_run_made(cai_there: Cai) -> None:
    asked = ("revise", HARMFUL, "--constitution", "constitution.yaml", "--json", "--model")
    lineages = [json.loads(cai_there(*asked, name).stdout)["lineage"]["answerer"] for name in ("tiny", "small/sft")]
    assert lineages[0] != lineages[1]


def test_a_wrong_name_is_told_with_the_one_that_was_meant(cai_there: Cai) -> None:
    assert "did you mean 'small/sft'?" in cai_there("chat", "smal/sft", "--once", "x", code=2).stderr
    assert "its training stages are sft, 03-sft, dpo, 05-dpo" in cai_there("chat", "small/rft", code=2).stderr
    for wrong, told in (("smal", "did you mean 'small'?"), ("nothing", "nothing: is no run; name one below runs/")):
        error = cai_there("model", "export", wrong, "--to", "adapter", "--out", "never", code=2).stderr
        assert told in error
        assert error.count("\n") == 1


def test_export_prints_how_far_it_agrees_and_overwrites_nothing(cai_there: Cai, finished: Path) -> None:
    order = ("model", "export", "small", "--stage", "sft", "--to", "merged", "--out", "exports/sft")
    told = cai_there(*order).stdout
    assert "same greedy answers" in told
    assert told.rstrip().endswith("small/03-sft → exports/sft")
    assert "# small/03-sft" in (finished / "exports" / "sft" / "README.md").read_text()
    assert "exports/sft: is already there" in cai_there(*order, code=2).stderr
    assert len(cai_there("chat", "exports/sft", "--once", HARMFUL, "--temperature", "0").stdout.strip()) > 5
    shutil.rmtree(finished / "exports")


def test_export_tells_a_program_what_it_measured(cai_there: Cai, finished: Path) -> None:
    told = json.loads(cai_there("model", "export", "small", "--to", "ollama", "--out", "exported", "--json").stdout)
    assert (told["model"], told["to"], told["base"], told["stored"]) == ("small/05-dpo", "ollama", "tiny", "f16")
    assert told["unrounded"]["largest_logit_difference"] <= told["tolerance"] * told["unrounded"]["largest_logit"]
    assert told["tuned"]["answers"] == told["tuned"]["same_prompts"] == 8
    assert 'PARAMETER stop "<|end|>"' in (finished / "exported" / "Modelfile").read_text()
    shutil.rmtree(finished / "exported")
