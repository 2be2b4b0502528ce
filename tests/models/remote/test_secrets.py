"""A key that is a canary: whatever happens, it is in no file, message, representation or log."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from cai.errors import CaiError
from cai.models.protocol import ChoiceRequest, Failed, Reply
from cai.records import Message
from tests.models.remote.conftest import Open, asking
from tests.models.remote.fake_server import Served

CANARY = "sk-canary-9f3a71c2"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)


def hits(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_the_key_is_sent_and_shown_nowhere(
    server: Served, remote: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda asked: f"your key is {asked.authorization}"
    model = remote(key_env="CANARY_KEY")
    (reply,) = model.generate([asking("x")])
    model.choose([ChoiceRequest((Message("user", "x"),), ("A", "B"))])
    assert server.calls[0].authorization == f"Bearer {CANARY}"
    assert isinstance(reply, Reply)
    assert reply.text == "your key is Bearer [key]"
    shown = f"{model!r} {model.facts} {vars(model)} {vars(model._session)} {caplog.text} {capfd.readouterr()}"
    assert CANARY not in shown
    assert hits(tmp_path) == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_comes_back_split_over_events_is_taken_out(server: Served, remote: Open, stream: bool) -> None:
    server.answer = lambda asked: f"the key: {CANARY}."
    (reply,) = remote(key_env="CANARY_KEY", stream=stream).generate([asking("x")])
    assert isinstance(reply, Reply)
    assert reply.text == "the key: [key]."


@pytest.mark.parametrize("fault", ["echo 401", "echo 400", "echo 500", "echo html", "echo stream", "hang", "reset"])
def test_no_failure_shows_the_key(
    server: Served, remote: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server.plan = lambda asked, attempt: "ok" if asked.probes else fault
    model = remote(key_env="CANARY_KEY", tries=2, stream=fault == "echo stream")
    try:
        (failed,) = model.generate([asking("x")])
        assert isinstance(failed, Failed)
        told = repr(failed)
    except CaiError as error:
        chain = [error, error.__cause__, error.__context__]
        told = "".join(traceback.format_exception(error)) + "".join(f"{e!r}{e}{vars(e) if e else ''}" for e in chain)
        told += repr(pickle.dumps(error))
    assert CANARY not in told
    assert CANARY not in caplog.text
    if fault.startswith("echo"):
        assert "[key]" in told, "the server did show it"
    model.close()
    assert hits(tmp_path) == []


CRASH = """
import os, signal, sys
from pathlib import Path
from cai.models.protocol import Request, Sampling
from cai.models.remote.model import open_remote
from cai.models.remote.spec import RemoteSpec
from cai.records import Message

spec = RemoteSpec(url=sys.argv[1], model="small", key_env="CANARY_KEY")
model = open_remote(spec, Path(sys.argv[2]))
model.generate([Request((Message("user", f"row {i}"),), Sampling(), i) for i in range(5)])
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
raise RuntimeError(f"{model!r} {vars(model)}")
"""


@pytest.mark.parametrize("end", ["kill", "raise"])
def test_a_crash_leaves_no_key_behind(server: Served, tmp_path: Path, end: str) -> None:
    command = [sys.executable, "-c", CRASH, server.url, str(tmp_path / "journal"), end]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CANARY_KEY": CANARY}, check=False, timeout=60
    )
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 1)
    assert CANARY not in done.stdout + done.stderr
    assert len(list((tmp_path / "journal").iterdir())) == 3
    assert hits(tmp_path) == []


def test_a_key_file_is_read_and_not_copied(server: Served, remote: Open, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text(CANARY)
    model = remote(key_file=str(tmp_path / "secrets" / "key"))
    model.generate([asking("x")])
    assert server.calls[-1].authorization == f"Bearer {CANARY}"
    assert hits(tmp_path) == [str(tmp_path / "secrets" / "key")]
    assert "key" not in {path.name for path in (tmp_path / "journal").iterdir()}
