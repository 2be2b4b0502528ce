"""A remote model against an endpoint that misbehaves: what becomes of a row, of the job, and of what was paid."""

import asyncio
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from cai.errors import CaiError, EndpointError, InputError, Interrupted, MissingModel
from cai.models.protocol import ChoiceRequest, Failed, Reply, Request
from cai.models.remote.model import RemoteModel, open_remote
from cai.models.remote.spec import RemoteSpec
from cai.records import Message
from cai.seeds import derive, uniform
from tests.models.remote.conftest import Open, asked_rows, asking, first_fails, texts
from tests.models.remote.fake_server import PASSING, Asked, Served

AB = ("A", "B")


def weighing(text: str, continuations: tuple[str, ...] = AB) -> ChoiceRequest:
    return ChoiceRequest((Message("user", text),), continuations)


def test_replies_come_in_the_order_asked_and_each_question_is_asked_once(server: Served, remote: Open) -> None:
    requests = [asking(f"row {i % 30}", seed=i % 30) for i in range(60)]
    results = remote().generate(requests)
    assert texts(results) == [f"reply to row {i % 30}" for i in range(60)]
    assert len(asked_rows(server)) == 30
    assert isinstance(results[0], Reply)
    assert (results[0].finish, results[0].prompt_tokens, results[0].completion_tokens) == ("stop", 10, 4)


def test_the_request_says_what_was_asked_for(server: Served, remote: Open) -> None:
    request = Request((Message("system", "Be kind."), Message("user", "hi")), asking("").sampling, (5 << 31) + 7)
    remote(extra={"top_k": 20}).generate([request])
    assert asked_rows(server)[0].body == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 32,
        "seed": 7,
        "top_k": 20,
    }


def test_nothing_that_was_answered_is_asked_again(server: Served, remote: Open) -> None:
    requests = [asking(f"row {i}") for i in range(10)]
    model = remote()
    first, chosen = model.generate(requests), model.choose([weighing("x")])
    asked, used, facts = len(server.calls), model.used, model.facts
    model.close()
    again = remote()
    assert again.generate(requests) == first
    assert again.choose([weighing("x")]) == chosen
    assert len(server.calls) == asked
    assert again.used == used
    assert again.facts == facts
    again.generate([asking("row 3", seed=1)])
    assert len(server.calls) == asked + 1


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_retried_and_the_reply_is_whole(server: Served, remote: Open, fault: str) -> None:
    stream = fault == "cut stream"
    server.plan = first_fails(fault)
    results = remote(stream=stream).generate([asking("row 1"), asking("row 2")])
    assert texts(results) == ["reply to row 1", "reply to row 2"]
    assert server.faults[fault] == 2
    assert all(server.paid[asked.key] == 1 for asked in asked_rows(server))


def test_with_a_fifth_of_all_calls_failing_in_every_way_each_row_ends_once(server: Served, remote: Open) -> None:
    """A thin slice of bench/remote.py."""

    def plan(asked: Asked, attempt: int) -> str:
        drawn = derive("fault", asked.key)
        if asked.probes or uniform(drawn, 2 * attempt) >= 0.2:
            return "ok"
        return PASSING[int(uniform(drawn, 2 * attempt + 1) * len(PASSING))]

    server.plan = plan
    results = remote(concurrency=16).generate([asking(f"row {i}") for i in range(300)])
    assert len(server.faults) > 12
    for i, result in enumerate(results):
        assert isinstance(result, Failed) or result.text == f"reply to row {i}"
    assert sum(isinstance(result, Failed) for result in results) < 5
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        ("reset", "connection lost", "after 3 tries"),
        ("500", "server error", "HTTP 500: oops, after 3 tries"),
        ("429", "rate limited", "HTTP 429: slow down, after 3 tries"),
        ("html", "not JSON", "<html>"),
        ("deep json", "not JSON", "after 3 tries"),
        ("empty body", "not JSON", "it is empty"),
        ("empty choices", "empty choices", "after 3 tries"),
        ("second choice only", "unclear reply", "no choice has index 0"),
        ("wrong model", "wrong model", "'another-model' answered instead of 'small'"),
        ("error with 200", "server error", "oops"),
        ("drip", "timeout", "no whole reply within 2.5 s"),
        ("hang", "timeout", "ReadTimeout"),
        ("endless", "too large", "more than 200000 bytes"),
    ],
)
def test_a_row_that_always_fails_is_lost_alone_and_named(
    server: Served, remote: Open, fault: str, reason: str, detail: str
) -> None:
    server.plan = lambda asked, attempt: fault if asked.words == "bad" else "ok"
    results = remote(tries=3).generate([asking(text) for text in ("good", "bad", "fine")])
    assert texts(results) == ["reply to good", reason, "reply to fine"]
    assert isinstance(results[1], Failed)
    assert detail in results[1].detail
    assert server.faults[fault] == 3


@pytest.mark.parametrize(
    ("fault", "reason"), [("400", "request refused"), ("too long", "too long"), ("no tools", "no tools")]
)
def test_a_request_that_will_never_be_taken_is_not_tried_again(
    server: Served, remote: Open, fault: str, reason: str
) -> None:
    server.plan = lambda asked, attempt: fault if asked.words == "bad" else "400" if "tools" in asked.body else "ok"
    bad = Request((Message("user", "bad"),), tools=({"type": "function"},) if fault == "no tools" else ())
    results = remote().generate([asking("good"), bad])
    assert texts(results) == ["reply to good", reason]
    assert server.faults[fault] == (fault != "no tools")


@pytest.mark.parametrize(("ending", "reason"), [("content filter", "content filter"), ("tool call", "tool call")])
def test_a_paid_reply_that_is_no_answer_is_a_reject_and_is_not_paid_for_again(
    server: Served, remote: Open, ending: str, reason: str
) -> None:
    server.plan = first_fails(ending, 100)
    for _ in range(2):
        model = remote()
        assert texts(model.generate([asking("x")])) == [reason]
        model.close()
    assert len(asked_rows(server)) == 1


@pytest.mark.parametrize("fault", ["choices reversed", "choice twice"])
def test_unusual_but_correct_replies_are_taken_at_once(server: Served, remote: Open, fault: str) -> None:
    server.plan = first_fails(fault, 100)
    assert texts(remote().generate([asking("x")])) == ["reply to x"]
    assert len(asked_rows(server)) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("401", "key refused (HTTP 401: bad key); check the key"),
        ("403", "key refused (HTTP 403: not yours)"),
        ("402", "no credit"),
        ("quota", "no credit (HTTP 429: insufficient_quota"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once_and_keeps_what_was_answered(
    server: Served, remote: Open, fault: str, told: str
) -> None:
    server.plan = lambda asked, attempt: fault if asked.words == "row 20" else "ok"
    model = remote()
    with pytest.raises(InputError) as caught:
        model.generate([asking(f"row {i}") for i in range(40)])
    assert told in str(caught.value)
    assert str(caught.value).startswith("model 'teacher' at 127.0.0.1:")
    assert str(caught.value).endswith("the same command goes on from there")
    assert server.faults[fault] == 1
    model.close()
    server.plan = lambda asked, attempt: "ok"
    assert len(remote().generate([asking(f"row {i}") for i in range(40)])) == 40
    assert set(server.paid.values()) == {1}, "no reply was paid for twice"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("redirect", "redirected (HTTP 302); redirects are not followed"),
        ("404", "not found (HTTP 404: no such route); check url"),
        ("wrong model", "set served_as: another-model"),
    ],
)
def test_a_mistake_in_the_settings_is_told_at_the_first_call(
    server: Served, remote: Open, fault: str, told: str
) -> None:
    server.plan = lambda asked, attempt: fault
    with pytest.raises(InputError) as caught:
        remote().generate([asking("x")])
    assert told in str(caught.value)
    assert len(server.calls) == 1


def test_no_redirect_is_followed(server: Served, remote: Open) -> None:
    server.plan = first_fails("redirect", 100)
    assert texts(remote(tries=2).generate([asking("x")])) == ["redirected"]
    assert len(asked_rows(server)) == 2


@pytest.mark.parametrize(
    ("served", "settings"),
    [
        ("small-2026-01-31", {}),
        ("x", {"served_as": "x"}),
        ("small-0131", {"model": "small-latest"}),
        ("small", {"model": "org/small"}),
    ],
)
def test_a_name_that_belongs_to_the_model_is_not_a_foreign_one(
    server: Served, remote: Open, served: str, settings: dict[str, object]
) -> None:
    server.models, server.model = [], served
    assert texts(remote(**settings).generate([asking("x")])) == ["reply to x"]


@pytest.mark.parametrize("served", ["small-mini", "smaller", "", "Small"])
def test_a_name_that_only_begins_alike_is_a_foreign_one(server: Served, remote: Open, served: str) -> None:
    server.model = served
    server.models = []
    if served:
        with pytest.raises(InputError, match=f"'{served}' answered instead of 'small'"):
            remote().generate([asking("x")])
    else:
        assert texts(remote().generate([asking("x")])) == ["reply to x"]


def test_a_model_that_is_not_listed_is_refused_with_those_that_are(server: Served, remote: Open) -> None:
    server.models = [{"id": "large"}, {"id": "medium"}]
    with pytest.raises(MissingModel, match=r"no such model, got small; it has large, medium"):
        remote().generate([asking("x")])
    assert server.calls == []


def test_an_endpoint_that_is_not_there_is_refused_at_once(remote: Open) -> None:
    model = remote(url="http://127.0.0.1:9/v1")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no connection \(ConnectError\); see that the endpoint is running"):
        model.generate([asking("x")])
    assert time.monotonic() - began < 5


def test_an_endpoint_that_dies_costs_no_row_its_life(server: Served, remote: Open) -> None:
    """All calls after the tenth fail for a while: the job ends without a single failed row, and goes on later."""
    server.plan = lambda asked, attempt: "ok" if len(server.calls) < 12 else "500"
    model = remote(patience_seconds=0.5, tries=5)
    with pytest.raises(EndpointError, match="at last server error"):
        model.generate([asking(f"row {i}") for i in range(30)])
    model.close()
    server.plan = lambda asked, attempt: "ok"
    results = remote().generate([asking(f"row {i}") for i in range(30)])
    assert texts(results) == [f"reply to row {i}" for i in range(30)]
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_rows_that_an_endpoint_cannot_digest_do_not_pass_for_its_death(
    server: Served, remote: Open, concurrency: int
) -> None:
    """Eight such rows in a row are more than ten faults without an answer; the endpoint is tried, and lives."""
    server.plan = lambda asked, attempt: "500" if asked.words.startswith("bad") else "ok"
    model = remote(concurrency=concurrency, patience_seconds=3)
    results = model.generate([asking(f"bad {i}") for i in range(8)])
    assert texts(results) == ["server error"] * 8
    assert texts(model.generate([asking("good")])) == ["reply to good"]


def test_an_endpoint_that_recovers_is_waited_for(server: Served, remote: Open) -> None:
    began = time.monotonic()
    server.plan = lambda asked, attempt: "ok" if len(server.calls) < 5 or time.monotonic() - began > 1 else "503"
    results = remote(patience_seconds=20, tries=5).generate([asking(f"row {i}") for i in range(20)])
    assert texts(results) == [f"reply to row {i}" for i in range(20)]


def test_an_endpoint_that_asks_to_wait_for_too_long_ends_the_job(server: Served, remote: Open) -> None:
    server.plan = first_fails("429 an hour")
    with pytest.raises(EndpointError, match=r"asks to wait 3600 s .*raise patience_seconds"):
        remote().generate([asking("x")])


def test_an_endpoint_that_refuses_everything_ends_the_job(server: Served, remote: Open) -> None:
    server.plan = lambda asked, attempt: "400"
    with pytest.raises(InputError, match=r"it takes not even a plain request: request refused .HTTP 400: unknown"):
        remote().generate([asking("x")])


def test_calls_at_a_time_stay_within_the_setting(server: Served, remote: Open) -> None:
    server.delay = 0.005
    remote(concurrency=6).generate([asking(f"row {i}") for i in range(200)])
    assert 4 <= server.most_at_once <= 6


def test_it_works_from_many_threads_and_inside_a_running_loop(server: Served, remote: Open) -> None:
    model = remote()
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = texts(model.generate([asking(f"row {i}") for i in range(20)]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def inside() -> list[str]:
        return texts(model.generate([asking(f"row {i}") for i in range(20)]))

    assert [*found.values(), asyncio.run(inside())] == [[f"reply to row {i}" for i in range(20)]] * 5
    assert len(asked_rows(server)) == 20, "equal questions of several threads wait for one answer"


def test_a_wish_to_stop_ends_the_work_soon_and_loses_nothing(server: Served, tmp_path: Path) -> None:
    """It is wished for while all calls wait: the endpoint has asked to be left alone for a minute."""
    wished = threading.Event()
    server.plan = lambda asked, attempt: "429 soon" if asked.words == "row 30" else "ok"
    spec = RemoteSpec(url=server.url, model="small", concurrency=4, patience_seconds=100)
    with open_remote(spec, tmp_path, "teacher", wished.is_set) as model:
        server.delay = 0.05
        threading.Timer(0.5, wished.set).start()
        began = time.monotonic()
        with pytest.raises(Interrupted, match="stopped; what was answered is kept, and the same command goes on"):
            model.generate([asking(f"row {i}") for i in range(200)])
        assert time.monotonic() - began < 10
        server.delay = 0
        server.plan = lambda asked, attempt: "ok"
        wished.clear()
        assert len(model.generate([asking(f"row {i}") for i in range(200)])) == 200
    assert set(server.paid.values()) == {1}


def test_closing_ends_what_other_threads_wait_for(server: Served, remote: Open) -> None:
    server.plan = first_fails("hang", 100)
    model = remote(idle_seconds=30, call_seconds=30)
    ended: list[str] = []

    def wait() -> None:
        try:
            model.generate([asking("x")])
        except CancelledError:
            ended.append("cancelled")

    thread = threading.Thread(target=wait)
    thread.start()
    while not server.at_once or not asked_rows(server):
        time.sleep(0.01)
    model.close()
    thread.join(5)
    assert ended == ["cancelled"]


def test_an_empty_batch_asks_nothing(server: Served, remote: Open) -> None:
    model = remote()
    assert model.generate([]) == []
    assert model.choose([]) == []
    assert server.calls == []


def test_a_closed_model_leaves_no_thread(remote: Open) -> None:
    model = remote()
    model.generate([asking("x")])
    model.close()
    assert "remote teacher" not in [thread.name for thread in threading.enumerate()]
    model.close()


def test_a_full_disk_ends_the_job(remote: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    model: RemoteModel = remote()
    model.generate([asking("x")])

    def full(*_: object) -> None:
        raise CaiError("journal: cannot be written (No space left on device)")

    monkeypatch.setattr(model._ledger._journal, "commit", full)
    with pytest.raises(CaiError, match="No space left on device"):
        model.generate([asking("y")])


def test_it_says_what_it_is_without_asking_anyone(server: Served, remote: Open, tmp_path: Path) -> None:
    model = remote(key_env=None)
    assert model.fingerprint.startswith("remote:")
    assert repr(model) == f"RemoteModel('teacher' at {server.url[7:-3]}, <no key>)"
    assert server.calls == []
