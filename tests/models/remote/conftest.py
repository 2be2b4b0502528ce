"""A misbehaving endpoint, and remote models that ask it with short deadlines."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cai.models.protocol import Failed, Reply, Request, Sampling
from cai.models.remote import calls, faults
from cai.models.remote.model import RemoteModel, open_remote
from cai.models.remote.spec import RemoteSpec
from cai.records import Message
from tests.models.remote.fake_server import Asked, Plan, Served, running

SHORT: dict[str, object] = {
    "connect_seconds": 2,
    "idle_seconds": 1.5,
    "call_seconds": 2.5,
    "patience_seconds": 5,
    "max_bytes": 200_000,
}
Open = Callable[..., RemoteModel]


def asking(text: str, seed: int = 0, temperature: float = 1.0) -> Request:
    return Request((Message("user", text),), Sampling(temperature=temperature, max_new_tokens=32), seed)


def texts(results: list[Reply | Failed]) -> list[str]:
    return [result.text if isinstance(result, Reply) else result.reason for result in results]


def asked_rows(server: Served) -> list[Asked]:
    return [asked for asked in server.calls if not asked.probes]


def first_fails(fault: str, times: int = 1) -> Plan:
    """Everything but probes fails this often, then works."""
    return lambda asked, attempt: "ok" if asked.probes or attempt > times else fault


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries in milliseconds."""
    monkeypatch.setattr(faults, "FIRST_WAIT", 0.01)
    assert calls.wait_before is faults.wait_before


@pytest.fixture
def server() -> Iterator[Served]:
    with running(Served()) as served:
        yield served


@pytest.fixture
def remote(server: Served, tmp_path: Path) -> Iterator[Open]:
    """`remote(tries=2)`: the model behind the server, closed when the test ends."""
    with ExitStack() as opened:

        def make(folder: str = "journal", **settings: object) -> RemoteModel:
            spec = RemoteSpec.model_validate({"url": server.url, "model": "small", **SHORT, **settings})
            return opened.enter_context(open_remote(spec, tmp_path / folder, "teacher"))

        yield make
