"""How the command begins and ends: help, versions, errors in one line, exit codes."""

from importlib.metadata import version

from cai.cli.main import COMMANDS as OURS
from cai.cli.main import load
from tests.cli.conftest import Cai
from tests.cli.reference import COMMANDS, PAGE, reference


def test_the_reference_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "`python -m tests.cli.reference` writes it anew"
    below = {f"{noun} {name}" for noun in OURS for name in getattr(load(noun), "commands", ())}
    assert {"", *OURS, *below} == set(COMMANDS)


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    for name, (_, says) in OURS.items():
        own = load(name).help
        assert own is not None
        assert " ".join(own.split("\n\n")[0].split()) == says


def test_the_version_is_told(cai: Cai) -> None:
    assert cai("--version").stdout == f"cai {version('cai')}\n"


def test_an_error_is_one_line_on_standard_error_and_exit_code_2(cai: Cai) -> None:
    for arguments, says in (
        (("run", "absent.yaml"), "absent.yaml: there is no such file"),
        (("run", "small.yaml", "--set", "modle.base=x"), "--set modle.base=x: unknown key"),
        (("run", "small.yaml", "--set", "seed=minus"), "--set seed=minus"),
        (("run", "small.yaml", "--set", "model.base=absent-model"), "absent-model"),
        (("status", "."), "is neither a run nor a training: it has no run.yaml and no training.json"),
        (("status", "absent"), "absent: there is no such folder; name a folder that `cai run` or `cai train` made"),
        (("trace", ".", "abcdef"), "holds no stage"),
        (("serve", "--host", "0.0.0.0"), "no keys yet"),
        (("revise", "x", "--constitution", "absent.yaml"), "absent.yaml: there is no such file"),
    ):
        done = cai(*arguments, code=2)
        assert done.stdout == ""
        assert done.stderr.startswith("cai: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_wrong_usage_is_exit_code_2(cai: Cai) -> None:
    for arguments in (("walk",), ("run",), ("run", "a", "b"), ("serve", "--port", "x"), ("revise", "x")):
        assert "Usage" in cai(*arguments, code=2).stderr


def test_nothing_is_written_when_bad_input_is_refused(cai: Cai, project: object) -> None:
    before = sorted(str(path) for path in project.rglob("*"))
    cai("run", "small.yaml", "--set", "model.base=absent-model", code=2)
    cai("run", "small.yaml", "--set", "prompts.train=absent.txt", code=2)
    assert sorted(str(path) for path in project.rglob("*")) == before
