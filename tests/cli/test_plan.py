"""`cai plan` and `cai model quantization` as people use them."""

import json
from pathlib import Path

from tests.cli.conftest import Cai


def test_a_plan_is_a_table_and_json(cai: Cai) -> None:
    shown = cai("plan", "small.yaml").stdout
    for part in ("01-revise", "generate", "judge", "train", "06-evaluate", "Peak ", "fits 8 GB"):
        assert part in shown
    told = json.loads(cai("plan", "small.yaml", "--json", "--card", "24").stdout)
    assert told["stages"][0]["stage"] == "01-revise"
    assert told["stages"][0]["answers"] == 8 * 3
    assert told["advice"] == ["all of it fits a card of 24 GB"]


def test_a_plan_changes_with_what_is_set_and_with_the_device(cai: Cai) -> None:
    def peak(*options: str) -> int:
        return int(json.loads(cai("plan", "small.yaml", "--json", *options).stdout)["bytes"])

    assert peak("--set", "stages.0.revise.max_new_tokens=512") > peak()
    assert peak("--cpu") != peak()


def test_a_finished_run_tells_the_next_plan_its_time(finished: Path) -> None:
    from tests.cli.conftest import cai_in

    told = json.loads(cai_in(finished)("plan", "small.yaml", "--json").stdout)
    assert told["seconds"] > 0
    assert all(stage["seconds"] >= 0 for stage in told["stages"])


def test_a_model_alone_is_planned_too(cai: Cai) -> None:
    shown = cai("plan", "--model", "tiny", "--card", "8").stdout
    assert "in 4 bits, all of it fits a card of 8 GB" in shown
    assert json.loads(cai("plan", "--model", "tiny", "--json").stdout)["parameters"] == 2_607_168


def test_a_plan_of_nothing_or_of_two_things_is_refused(cai: Cai) -> None:
    assert "takes either a pipeline or --model" in cai("plan", code=2).stderr
    assert "takes either a pipeline or --model" in cai("plan", "small.yaml", "--model", "tiny", code=2).stderr


def test_quantization_is_measured_on_prompts_and_a_text_of_ones_own(cai: Cai, project: Path) -> None:
    (project / "text.txt").write_text("Take a brush and water, and rub the shoe until it is clean. " * 30)
    (project / "asked.txt").write_text("Which is larger? A: a mouse. B: a house. Reply with A or B.\n")
    options = ("--text", "text.txt", "--questions", "asked.txt")
    done = cai("model", "quantization", "tiny", *options, "--json")
    assert done.stderr.splitlines() == ["measuring none …", "measuring int8 …", "measuring nf4 …"]
    told = json.loads(done.stdout)
    assert [row["quantization"] for row in told["rows"]] == ["none", "int8", "nf4"]
    assert told["rows"][0]["agreement"] == 1


def test_a_model_without_a_text_of_its_own_needs_one(cai: Cai) -> None:
    assert "only the embedded model has a text of its own" in cai("model", "quantization", "./other", code=2).stderr
