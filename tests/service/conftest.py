"""A project folder, a started server in it, and the same application without a network."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cai.service.app import build_app
from cai.service.office import open_office

TESTS = Path(__file__).parents[1]
HOST = "127.0.0.1:8642"


@dataclass
class Server:
    """A `cai serve` that was really started."""

    process: "subprocess.Popen[str]"
    url: str
    project: Path

    @property
    def runs(self) -> Path:
        return self.project / "runs"

    def worker(self) -> int:
        """The process that owns the device."""
        lock = self.runs / ".service" / "device" / ".lock"
        return int(lock.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(40)

    def clean_up(self) -> None:
        self.stop(signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


def make_project(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(TESTS / "small.yaml", folder / "small.yaml")
    shutil.copy(TESTS.parent / "constitutions" / "tiny.yaml", folder / "constitution.yaml")
    return folder


def start_server(project: Path) -> Server:
    command = [sys.executable, "-m", "cai.cli.main", "serve", "--port", "0"]
    with open(project / "server.log", "a") as log:
        process = subprocess.Popen(
            command,
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    told = re.fullmatch(r"(http://127\.0\.0\.1:\d+)\n", line)
    assert told, (line, (project / "server.log").read_text())
    return Server(process, told[1], project)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def starts(project: Path) -> Iterator[Callable[[], Server]]:
    """Starts servers in the project, and ends them with the test."""
    started: list[Server] = []

    def start() -> Server:
        started.append(start_server(project))
        return started[-1]

    yield start
    for server in started:
        server.clean_up()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a module."""
    started = start_server(make_project(tmp_path_factory.mktemp("served") / "project"))
    yield started
    started.clean_up()


@contextlib.asynccontextmanager
async def open_client(project: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application with everything behind it, asked without a network in between."""
    async with open_office(project / "runs", project) as office:
        transport = httpx.ASGITransport(build_app(office, [HOST]), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            yield client
