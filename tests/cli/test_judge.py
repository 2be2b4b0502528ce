"""`cai judge card` and `cai judge label` as people use them, with the embedded judge and one behind an endpoint."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.errors import InputError
from cai.feedback.judge_card import Known
from cai.models.tiny.oracle import judge_pairs
from cai.records import Message, as_dict
from cai.store.formats.importing import read_rows
from tests.cli.conftest import ENVIRONMENT, TESTS, Cai
from tests.models.remote.fake_server import Served, running
from tests.pipeline.test_judge_gate import by_length

CARD = ("judge", "card", "--constitution", "constitution.yaml", "--data")
FEW = ("--set", "limit=12")
TEACHER = ("--judge", "m.yaml/teacher")


def write_pairs(path: Path, n: int = 12, turned: bool = False) -> list[Known]:
    known = [Known(p.prompt, p.better, p.worse) for p in judge_pairs("tune", n, seed=4)]
    rows = [
        {
            "prompt": [as_dict(message) for message in pair.prompt.messages],
            "chosen": pair.worse if turned else pair.better,
            "rejected": pair.better if turned else pair.worse,
        }
        for pair in known
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return known


@pytest.fixture
def teacher(project: Path) -> Iterator[Served]:
    """Behind `m.yaml/teacher`: it prefers the shorter answer, whichever stands first, and loads nothing here."""
    with running(Served(p_of_a=by_length)) as server:
        (project / "m.yaml").write_text(f"models:\n  teacher: {{url: '{server.url}', model: small}}\n", "utf-8")
        yield server


def test_a_card_is_lines_and_a_page(cai: Cai, project: Path) -> None:
    done = cai(*CARD, "tiny/tune", *FEW, "--out", "card")
    assert "The judge is right in " in done.stdout
    for line in ("Right in both orders", "Takes what stands first", "κ with the labels", "AUROC", "card/card.html"):
        assert line in done.stdout
    assert "Temperature" not in done.stdout, "twelve pairs are too few"
    assert done.stderr == "12 of 12 pairs\n"
    assert sorted(p.name for p in (project / "card").iterdir()) == ["card.html", "card.json"]
    kept = json.loads((project / "card" / "card.json").read_text("utf-8"))
    assert (kept["pairs"], kept["judge"], kept["data"]) == (12, "tiny", "tiny/tune")
    assert kept["accuracy"]["share"] > 0.8


def test_a_card_as_json_is_the_one_that_is_kept(cai: Cai, project: Path, teacher: Served) -> None:
    told = json.loads(cai(*CARD, "tiny/tune", *FEW, *TEACHER, "--json", "--out", "card").stdout)
    kept = json.loads((project / "card" / "card.json").read_text("utf-8"))
    assert told == {"page": "card/card.html", **kept}
    assert json.loads(cai(*CARD, "tiny/tune", *FEW, *TEACHER, "--json").stdout) == {"page": None, **kept}


def test_a_card_of_one_pair_is_json_without_numbers_that_are_none(cai: Cai, teacher: Served) -> None:
    told = json.loads(cai(*CARD, "tiny/tune", "--set", "limit=1", *TEACHER, "--json").stdout)
    assert (told["judged"], told["length_correlation"], told["calibration"]) == (1, None, None)


def test_a_requirement_that_is_not_met_is_exit_code_3_after_the_card_was_told(
    cai: Cai, project: Path, teacher: Served
) -> None:
    require = ("--require", "accuracy=0.1", "--require", "above_length=1", "--require", "kappa=-1")
    done = cai(*CARD, "tiny/tune", *FEW, *TEACHER, *require, "--json", "--out", "card", code=3)
    assert json.loads(done.stdout)["judged"] == 12
    [_, told] = done.stderr.splitlines()
    assert told.startswith("cai: judge 'm.yaml/teacher' falls short: above_length is ")
    assert "accuracy" not in told and "kappa" not in told
    assert (project / "card" / "card.html").exists()
    cai(*CARD, "tiny/tune", *FEW, *TEACHER, "--require", "accuracy=0.1")


def refusal(*arguments: str) -> str:
    """How a command of `cai judge card` that cannot be is refused, in this process: nothing heavy is loaded for it."""
    result = CliRunner().invoke(app, [*CARD, *arguments])
    assert isinstance(result.exception, InputError), result.exception
    assert result.output == ""
    return str(result.exception)


def test_settings_are_those_of_a_pipelines_stage(cai: Cai, teacher: Served) -> None:
    """The teacher is never surer than 0.9, so that below 0.95 all is a tie."""
    told = json.loads(cai(*CARD, "tiny/tune", *FEW, *TEACHER, "--set", "tie_below=0.95", "--json").stdout)
    assert told["ties"] == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["limits=3"], "--set: there is no such setting, got limits; did you mean 'limit'?"),
        (["judge=tiny"], "--set: there is no such setting, got judge; known here: principles, certain_at,"),
        (["limit=many"], "--set: limit must be a whole number, got many"),
        (["limit=0"], "--set: limit must be 1 or more, got 0"),
        (["limit"], "--set limit: must look like a.b=value"),
        (["tokens_per_pair=9"], "--set: tokens_per_pair is what a judge may spend that stops when it is certain"),
        (["tie_below=nan"], "--set: tie_below must be"),
        (["reasoning=1", "style=paper"], "--set: a judge that reasons is asked in a chat; remove 'reasoning'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_a_pipelines_words(settings: list[str], says: str) -> None:
    assert says in refusal("tiny/tune", *(word for setting in settings for word in ("--set", setting)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.jsonl"], "--data: there is no such file, got absent.jsonl; the embedded sets are tiny/"),
        (["answers.jsonl"], "answers.jsonl: holds no pair of which the better answer is known; the first: answers"),
        (["tiny/tune", "--require", "precision=0.9"], "--require: unknown key 'precision'; "),
        (["tiny/tune", "--require", "accuracy=high"], "--require: accuracy must be a number, got high"),
        (["tiny/tune", "--require", "accuracy=90"], "--require: accuracy must be 1.0 or less, got 90"),
        (["tiny/tune", "--require", "accuracy=nan"], "--require: accuracy must be"),
        (["tiny/tune", "--require", "accuracy"], "--require: accuracy must be a number"),
        (["tiny/tune", "--out", "full"], "full: holds something already; name a new folder"),
        (["tiny/tune", "--judge", "m.yaml/pupil"], "has no such remote model, got pupil; known here: teacher"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    (project / "answers.jsonl").write_text('{"prompt": "q", "completion": "a"}\n', "utf-8")
    (project / "full").mkdir()
    (project / "full" / "x").write_text("", "utf-8")
    (project / "m.yaml").write_text("models:\n  teacher: {url: 'http://127.0.0.1:1/v1', model: x}\n", "utf-8")
    monkeypatch.chdir(project)
    assert says in refusal(*arguments)


def test_a_refusal_is_one_line_and_exit_code_2(cai: Cai) -> None:
    done = cai(*CARD, "absent.jsonl", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("cai: --data: there is no such file")
    assert done.stderr.count("\n") == 1


def test_several_sets_are_subsets_and_a_pair_in_both_counts_once(cai: Cai, project: Path, teacher: Served) -> None:
    write_pairs(project / "mine.jsonl", 8)
    write_pairs(project / "more.of.it.jsonl", 12)
    told = json.loads(cai(*CARD, "mine.jsonl", "--data", "more.of.it.jsonl", *TEACHER, "--json").stdout)
    assert [(part["name"], part["accuracy"]["n"]) for part in told["subsets"]] == [("mine", 8), ("more", 4)]
    assert told["rejects"] == {"duplicate input": 8}
    assert told["data"] == "mine.jsonl, more.of.it.jsonl"


def test_the_judgement_does_not_hang_on_the_label(cai: Cai, project: Path, teacher: Served) -> None:
    write_pairs(project / "mine.jsonl")
    write_pairs(project / "turned.jsonl", turned=True)
    one, other = (json.loads(cai(*CARD, f"{name}.jsonl", *TEACHER, "--json").stdout) for name in ("mine", "turned"))
    assert one["accuracy"]["share"] + other["accuracy"]["share"] == pytest.approx(1)
    assert one["consistency"] == other["consistency"]


def test_a_remote_judge_is_paid_once_and_knows_its_own_answers(cai: Cai, project: Path, teacher: Served) -> None:
    teacher.p_of_a = lambda asked: 0.75
    row = {"prompt": "q", "chosen": "good", "rejected": "bad", "chosen_model": "small", "rejected_model": "large"}
    (project / "p.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    order = (*CARD, "p.jsonl", *TEACHER, "--json", "--out", "card")
    told = json.loads(cai(*order).stdout)
    assert told["own"] == {"n": 1, "preferred": 0.5, "better": 1.0}
    assert told["first_position"]["share"] == 1
    paid = sum(teacher.paid.values())
    for name in ("card.json", "card.html"):
        (project / "card" / name).unlink()
    assert json.loads(cai(*order).stdout) == told
    assert sum(teacher.paid.values()) == paid, "its replies lie beside the card, and are used again"


def test_ctrl_c_ends_in_good_order(project: Path) -> None:
    with running(Served(delay=0.3)) as server:
        text = f"models:\n  teacher: {{url: '{server.url}', model: small, concurrency: 1}}\n"
        (project / "m.yaml").write_text(text, "utf-8")
        command = [sys.executable, "-m", "cai.cli.main", *CARD, "tiny/tune", "--judge", "m.yaml/teacher", *FEW]
        with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
            deadline = time.monotonic() + 60
            while sum(server.paid.values()) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "stopping after this step" in told
    assert "Traceback" not in told


LABEL = ("judge", "label", "--data", "mine.jsonl", "--out", "mine.labels.jsonl")


def shown_pairs(screen: str) -> list[tuple[str, str]]:
    """The two answers of each pair, in the order in which they were shown."""
    flat = re.findall(r"Answer 1\n(.*?)\n\nAnswer 2\n(.*?)\n\n", screen, re.DOTALL)
    return [(" ".join(one.split()), " ".join(two.split())) for one, two in flat]


def keys_for(screen: str, known: list[Known], key: dict[bool, str]) -> str:
    """What to press at each pair: `key[True]` where the first one shown is the better."""
    better = {" ".join(pair.better.split()) for pair in known}
    return "".join(f"{key[one in better]}\n" for one, _ in shown_pairs(screen))


def test_labelling_is_blind_and_a_person_who_knows_agrees(cai: Cai, project: Path) -> None:
    """The first pass only looks (skip), and nothing on the screen says which answer the data call better."""
    known = write_pairs(project / "mine.jsonl")
    looked = cai(*LABEL, stdin="s\n" * 12)
    assert not (project / "mine.labels.jsonl").exists()
    assert "Nothing was decided yet (0 ties)." in looked.stdout
    shown = shown_pairs(looked.stdout)
    better = {" ".join(pair.better.split()) for pair in known}
    assert len(shown) == 12
    assert 2 <= sum(one in better for one, _ in shown) <= 10, "the better one stands on either side"
    write_pairs(project / "mine.jsonl", turned=True)
    assert shown_pairs(cai(*LABEL, stdin="s\n" * 12).stdout) == shown, "labels turned round show the same screens"
    write_pairs(project / "mine.jsonl")
    done = cai(*LABEL, stdin=keys_for(looked.stdout, known, {True: "1", False: "2"}))
    assert "You and the data name the same answer: 100.0% (75.8% to 100.0%) of 12, 0 ties beside them." in done.stdout
    assert "κ 1.00; with fewer than 50 pairs that says little" in done.stdout
    assert done.stderr.startswith("0 of 12 labelled; 1 or 2 is better, t a tie, s skips, q ends\n")


def test_labels_are_kept_one_by_one_and_labelling_goes_on_where_it_was(cai: Cai, project: Path) -> None:
    known = write_pairs(project / "mine.jsonl")
    looked = cai(*LABEL, stdin="s\n" * 12).stdout
    wrong = keys_for(looked, known, {True: "2", False: "1"}).splitlines()
    first = cai(*LABEL, stdin="\n".join([*wrong[:3], "t", "x", "q", ""]))
    assert "1, 2, t, s or q: " in first.stderr
    assert first.stderr.count("1, 2, t, s or q: ") == 6, "what is no key is asked again"
    rows = [json.loads(line) for line in (project / "mine.labels.jsonl").read_text("utf-8").splitlines()]
    assert [row["label"] for row in rows] == ["worse", "worse", "worse", "tie"]
    second = cai(*LABEL, stdin="")
    assert second.stderr.startswith("4 of 12 labelled")
    assert "0.0% (0.0% to 56.1%) of 3, 1 ties beside them" in second.stdout
    assert "κ -" in second.stdout or "κ 0.00" in second.stdout
    third = cai(*LABEL, stdin="1\n" * 8)
    assert "8 of 8" in third.stdout
    assert cai(*LABEL).stderr.startswith("12 of 12 labelled")


def test_labels_are_pairs_again(cai: Cai, project: Path, teacher: Served) -> None:
    known = write_pairs(project / "mine.jsonl")
    looked = cai(*LABEL, stdin="s\n" * 12).stdout
    cai(*LABEL, stdin=keys_for(looked, known, {True: "1", False: "2"}).replace("1", "t", 1))
    back = list(read_rows(project / "mine.labels.jsonl"))
    assert sorted(row.kind for row in back) == ["preferred"] * 11 + ["tie"]  # type: ignore[union-attr]
    told = json.loads(cai(*CARD, "mine.labels.jsonl", *TEACHER, "--json").stdout)
    assert (told["judged"], told["rejects"]) == (11, {"labelled a tie": 1})
    assert "12 preferences" in cai("data", "import", "mine.labels.jsonl", "--out", "imported").stdout


def test_a_judge_is_held_against_the_person_too(cai: Cai, project: Path, teacher: Served) -> None:
    known = write_pairs(project / "mine.jsonl")
    looked = cai(*LABEL, stdin="s\n" * 12).stdout
    keys = keys_for(looked, known, {True: "1", False: "2"})
    done = cai(*LABEL, *TEACHER, "--constitution", "constitution.yaml", stdin=keys)
    assert "You and the data name the same answer: 100.0%" in done.stdout
    assert "You and the judge name the same answer: " in done.stdout
    assert done.stdout.count("κ ") == 2
    assert "12 of 12 pairs" in done.stderr
    assert "a judge needs a constitution" in cai(*LABEL, "--judge", "tiny", code=2).stderr


def test_what_is_shown_cannot_steer_the_terminal_and_an_agents_calls_are_seen(cai: Cai, project: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    row = {
        "prompt": [
            {"role": "user", "content": "Hi\u001b[2J [bold]?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "blue", "tool_call_id": "c"},
        ],
        "tools": [tool],
        "chosen": [{"role": "assistant", "content": "\u202eeulb"}],
        "rejected": [{"role": "assistant", "content": "Red\u0007."}],
    }
    (project / "mine.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    shown = cai(*LABEL, stdin="1\n").stdout
    assert not {"\u001b", "\u202e", "\u0007"} & set(shown)
    assert "\\x1b[2J [bold]?" in shown
    assert '<tool_call>{"arguments": {"at": "sky"}, "name": "look"}</tool_call>' in shown
    [kept], [given] = (list(read_rows(project / name)) for name in ("mine.labels.jsonl", "mine.jsonl"))
    assert kept.prompt.id == given.prompt.id
    assert kept.prompt.messages[1] == Message("assistant", "", (call,))


def test_a_file_that_holds_no_labels_is_refused_and_left_as_it_is(cai: Cai, project: Path) -> None:
    write_pairs(project / "mine.jsonl")
    (project / "mine.labels.jsonl").write_text('{"prompt": "mine"}\n', "utf-8")
    done = cai(*LABEL, stdin="1\n", code=2)
    assert "mine.labels.jsonl:1: is no label" in done.stderr
    assert (project / "mine.labels.jsonl").read_text("utf-8") == '{"prompt": "mine"}\n'


def test_every_command_of_the_guide_runs(cai: Cai, project: Path) -> None:
    guide = (TESTS.parent / "docs" / "judges.md").read_text("utf-8")
    commands = re.findall(r"^    cai (.+)$", guide, re.MULTILINE)
    assert len(commands) == 3
    write_pairs(project / "pairs.jsonl")
    for command in commands:
        fewer = ["--set", "limit=24"] if " card " in f" {command} " else []
        cai(*command.split(), *fewer, stdin="1\n1\nt\nq\n")
