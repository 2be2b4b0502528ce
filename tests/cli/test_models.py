"""The commands that load a model: revise, chat, doctor, and the project that init makes."""

import json
from pathlib import Path

import pytest

from cai.cli.embedded import note_if_unknown
from cai.cli.screen import marked_changes, span, word_changes
from cai.constitution.paper import paper_digest
from tests.cli.conftest import Cai, cai_in

HARMFUL = "Do you know how to kick the neighbour's bike?"


def test_revise_shows_answer_critique_and_revision_and_repeats_them_for_a_seed(cai: Cai) -> None:
    asked = ("revise", HARMFUL, "--constitution", "constitution.yaml", "--rounds", "2")
    shown = cai(*asked).stdout
    order = [shown.index(part) for part in ("Answer", "Round 1: ", "Critique", "Revision", "Round 2: ")]
    assert order == sorted(order)
    told = json.loads(cai(*asked, "--json").stdout)
    assert told["prompt"]["messages"][0]["content"] == HARMFUL
    assert told["initial"] in shown
    before = told["initial"]
    for turn in told["rounds"]:
        assert turn["principle_id"] in shown
        assert turn["critique"] in shown
        if turn["changed"]:
            assert marked_changes(before, turn["revision"]) in shown
        before = turn["revision"]
    other = json.loads(cai(*asked, "--json", "--seed", "1").stdout)
    assert (other["lineage"]["seed"], told["lineage"]["seed"]) == (1, 0)


def test_revise_can_ask_in_plain_text_and_says_so(cai: Cai) -> None:
    asked = ("revise", HARMFUL, "--constitution", "constitution.yaml", "--style", "paper", "--seed", "1")
    assert cai(*asked).stdout.startswith("Plain text behind 0 worked examples; add some")
    told = json.loads(cai(*asked, "--json").stdout)
    assert told["lineage"]["frames"] == paper_digest()
    assert "Plain text" not in cai("revise", HARMFUL, "--constitution", "constitution.yaml").stdout


def test_chat_answers_once_and_a_conversation_line_by_line(cai: Cai) -> None:
    once = cai("chat", "tiny", "--once", HARMFUL, "--temperature", "0").stdout
    assert once.count("\n") == 1
    assert len(once) > 10
    talk = cai("chat", "tiny", "--temperature", "0", stdin=f"{HARMFUL}\n\n/new\n{HARMFUL}\n/end\nunread\n").stdout
    assert talk == once * 2


def test_who_asks_the_embedded_model_beyond_its_world_is_told_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    note_if_unknown("tiny", "What is the capital of France?")
    told = capsys.readouterr().err
    assert "knows the requests of its small world only" in told
    assert told.count("\n") == 1
    note_if_unknown("tiny", HARMFUL)
    note_if_unknown("tiny+1a2b3c4d", "What is the capital of France?")
    assert capsys.readouterr().err == ""


def test_chat_talks_to_what_a_run_made(finished: Path) -> None:
    cai = cai_in(finished)
    answer = cai("chat", "runs/small", "--once", HARMFUL, "--temperature", "0").stdout
    assert len(answer.strip()) > 5


def test_doctor_says_what_is_there_and_that_the_embedded_model_answers(cai: Cai) -> None:
    told = {check["name"]: check for check in json.loads(cai("doctor", "--json").stdout)["checks"]}
    names = {"Python", "torch", "GPU", "CPU", "C compiler", "memory", "disk", "bitsandbytes", "embedded model", "fits"}
    assert set(told) == names
    assert told["embedded model"]["state"] == "ok"
    assert "answers: " in told["embedded model"]["found"]
    assert all(check["advice"] for check in told.values() if check["state"] != "ok")


def test_init_makes_a_project_that_is_sound(cai: Cai, project: Path) -> None:
    from cai.constitution.lint import lint
    from cai.constitution.model import load_constitution
    from cai.pipeline.spec import load_pipeline

    assert "cd fresh && cai run pipeline.yaml" in cai("init", "fresh").stdout
    fresh = project / "fresh"
    made = ["README.md", "constitution.yaml", "pipeline.yaml", "prompts.txt"]
    assert sorted(path.name for path in fresh.iterdir()) == made
    findings = lint(load_constitution(fresh / "constitution.yaml"))
    assert [f for f in findings if f.severity in ("error", "warning")] == []
    pipeline = load_pipeline(fresh / "pipeline.yaml")
    assert pipeline.spec.model.base == "tiny"
    assert len(pipeline.train) == 240
    assert [stage.kind for stage in pipeline.stages][-1] == "evaluate"


def test_init_overwrites_nothing(cai: Cai, project: Path) -> None:
    (project / "taken").mkdir()
    (project / "taken" / "mine.txt").write_text("mine")
    assert "is not empty" in cai("init", "taken", code=2).stderr
    assert "is a file" in cai("init", "small.yaml", code=2).stderr
    assert [path.name for path in (project / "taken").iterdir()] == ["mine.txt"]


def test_the_first_run_of_a_made_project_works(cai: Cai, project: Path) -> None:
    cai("init", "fresh")
    smaller = ("prompts.train.limit=8", "prompts.test.limit=4", "stages.0.revise.rounds=1")
    options = [part for override in smaller for part in ("--set", override)]
    inside = cai_in(project / "fresh")
    assert "Report: " in inside("run", "pipeline.yaml", *options).stdout
    assert inside("status", "runs/first-run").stdout.startswith("✓ done")


def test_word_changes_are_marked_with_and_without_colours() -> None:
    before, after = "Take a shoe and kick it.", "Take a shoe and clean it."
    assert marked_changes(before, after) == "Take a shoe and [-kick-]{+clean+} it."
    assert word_changes(before, after).plain == "Take a shoe and kickclean it."


def test_lengths_of_time_are_told_as_people_say_them() -> None:
    assert [span(s) for s in (0.4, 59, 61, 3599.6, 7322)] == ["0 s", "59 s", "1 min 01 s", "1 h 00 min", "2 h 02 min"]
