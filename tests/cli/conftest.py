"""The command line as people use it: a process, what it prints, and how it ends."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
Cai = Callable[..., "subprocess.CompletedProcess[str]"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def cai_in(folder: Path) -> Cai:
    def cai(*arguments: str, code: int = 0, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cai.cli.main", *arguments]
        done = subprocess.run(
            command, cwd=folder, input=stdin, capture_output=True, text=True, check=False, timeout=280, env=ENVIRONMENT
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return cai


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
