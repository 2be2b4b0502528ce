"""The command line as people use it: a process, what it prints, and how it ends.

Each command is a process of its own, with its own folder, streams and exit code. It is forked from one that has torch
loaded already, since loading takes longer than most of the commands.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

TESTS = Path(__file__).parents[1]
Cai = Callable[..., "subprocess.CompletedProcess[str]"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


LOADED = ["cai.models.local.workbench", "cai.train.sft", "cai.train.preference", "tests.cli.conftest"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LOADED)
_WRITE = os.O_WRONLY | os.O_CREAT


def cai_in(folder: Path) -> Cai:
    def cai(*arguments: str, code: int = 0, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        with TemporaryDirectory() as streams:
            given, out, err = (Path(streams) / name for name in ("in", "out", "err"))
            given.write_text(stdin)
            process = FORKS.Process(target=_command, args=(str(folder), arguments, str(streams)))
            with pytest.MonkeyPatch.context() as patch:
                # The process that is forked from begins with the first command, and takes these along.
                for name in ("OMP_NUM_THREADS", "COLUMNS"):
                    patch.setenv(name, ENVIRONMENT[name])
                process.start()
            process.join(280)
            assert process.exitcode is not None, f"cai {' '.join(arguments)} did not end: {out.read_text()}"
            done = subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return cai


def _command(folder: str, arguments: tuple[str, ...], streams: str) -> None:
    """In the forked process: what `cai ARGUMENTS` in that folder is."""
    os.chdir(folder)
    for number, name, flags in ((0, "in", os.O_RDONLY), (1, "out", _WRITE), (2, "err", _WRITE)):
        os.dup2(os.open(f"{streams}/{name}", flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing gives its children none
    sys.argv = ["cai", *arguments]
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    from cai.cli.main import run

    run()


def make_project(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(TESTS / "small.yaml", folder / "small.yaml")
    shutil.copy(TESTS.parent / "constitutions" / "tiny.yaml", folder / "constitution.yaml")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def cai(project: Path) -> Cai:
    """Runs `cai` in a fresh project, and expects the exit code."""
    return cai_in(project)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small pipeline ran; not to be changed."""
    folder = make_project(tmp_path_factory.mktemp("finished") / "project")
    (folder / "told.txt").write_text(cai_in(folder)("run", "small.yaml").stdout)
    return folder
