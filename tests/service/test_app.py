"""The routes, asked without a network: what is refused, how it is said, and what a listing tells."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import open_client

Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def ask(project: Path, *requests: Ask) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with open_client(project) as client:
            return [await request(client) for request in requests]

    return asyncio.run(run())


def post(path: str, body: object) -> Ask:
    return lambda client: client.post(path, json=body)


def get(path: str, **headers: str) -> Ask:
    return lambda client: client.get(path, headers=headers)


def pipeline(project: Path, old: str = "", new: str = "") -> str:
    text = (project / "small.yaml").read_text()
    assert old in text
    return text.replace(old, new) if old else text


def write_run(project: Path, name: str, last: str, stages: str = "revise") -> Path:
    """A run's folder as `cai run` leaves it, its end being `last`."""
    folder = project / "runs" / name
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(f"pipeline:\n  name: {name}\n  stages:\n  - {stages}: {{}}\n")
    event = {"time": 1.0, "kind": "run_started", "stage": "", "data": {}}
    end = {"time": 2.0, "kind": last, "stage": "", "data": {"error": "<b>broke</b>"}}
    (folder / "events.jsonl").write_text(f"{json.dumps(event)}\n{json.dumps(end)}\n")
    return folder


def test_health_is_told(project: Path) -> None:
    assert ask(project, get("/healthz"))[0].json() == {"status": "ok"}


def test_a_pipeline_that_is_not_one_is_refused_by_its_place(project: Path) -> None:
    cases = [
        ({}, "pipeline: Field required"),
        ({"pipeline": "name: x", "nmae": "y"}, "nmae: this parameter is not supported"),
        ({"pipeline": 7}, "pipeline"),
        ({"pipeline": "a: &x 1"}, "pipeline:1:"),
        ({"pipeline": {"name": "x", "modle": {}}}, "did you mean 'model'?"),
        ({"pipeline": "name: x\n" * 2}, "pipeline:2:"),
    ]
    for response, (_, says) in zip(ask(project, *(post("/api/runs", body) for body, _ in cases)), cases, strict=True):
        assert response.status_code == 422
        assert says in response.json()["error"]["message"]
    assert list((project / "runs").iterdir()) == [project / "runs" / ".service"]
    assert list((project / "runs" / ".service").glob("sent-*")) == []


OUTSIDE = ("/etc/passwd", "../outside.yaml", "a/../../outside.yaml", "~/x", "link/x.yaml", "/proc/self/environ", "a\0b")


def test_no_pipeline_sends_this_machine_elsewhere(project: Path) -> None:
    models = {"x": {"url": "https://elsewhere.example/v1", "model": "m", "key_env": "SECRET"}}
    data = {"name": "x", "constitution": "constitution.yaml", "models": models, "prompts": {}, "stages": []}
    (response,) = ask(project, post("/api/runs", {"pipeline": data}))
    assert response.status_code == 422
    assert "pipeline: models: is not taken from outside" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "key", ["constitution", "prompts.train", "prompts.test.from", "model.base", "stages.0.dpo.from"]
)
def test_no_pipeline_reaches_out_of_the_project(project: Path, key: str) -> None:
    (project / "link").symlink_to(project.parent)
    (project.parent / "outside.yaml").write_text("id: x")

    def naming(path: str) -> Ask:
        data = {
            "name": "x",
            "constitution": "constitution.yaml",
            "model": {"base": "tiny"},
            "prompts": {},
            "stages": [{"dpo": {}}],
        }
        *steps, last = key.split(".")
        place: Any = data
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        place[last] = path
        return post("/api/runs", {"pipeline": data})

    for response in ask(project, *map(naming, OUTSIDE)):
        assert response.status_code == 422
        message = response.json()["error"]["message"]
        assert "leads out of the project" in message or "character" in message


def test_a_name_that_is_none_is_refused(project: Path) -> None:
    names = ("tiny", "../x", "a/b", ".hidden", "", "a" * 81, "true", "x\ny", "x y", "small=1")
    sent = (post("/api/runs", {"pipeline": pipeline(project), "name": name}) for name in names)
    assert [response.status_code for response in ask(project, *sent)] == [422] * len(names)


def test_what_is_no_run_is_not_there(project: Path) -> None:
    write_run(project, "real", "run_finished")
    (project / "runs" / "link").symlink_to(project)
    (project / "run.yaml").write_text("pipeline:\n  name: x\n  stages: []\n")
    (project / "report.html").write_text("secret")
    names = ("absent", "%2e%2e", "...", "..%2f..%2fetc", "a%00b", "link", ".service", "x" * 500)
    rest = ("", "/events", "/report", "/report.json")
    for response in ask(project, *(get(f"/api/runs/{name}{more}") for name in names for more in rest)):
        assert response.status_code == 404, response.url
        assert "secret" not in response.text


def test_runs_of_the_command_line_are_listed_with_the_newest_first(project: Path) -> None:
    for age, (name, end) in enumerate([("old", "run_failed"), ("new", "run_finished"), ("mid", "run_interrupted")]):
        folder = write_run(project, name, end)
        when = time.time() - (100 - age if name == "new" else 1000 - age)
        os.utime(folder / "events.jsonl", (when, when))
    [response] = ask(project, get("/api/runs"))
    told = [(run["id"], run["state"], run["error"]) for run in response.json()["data"]]
    assert told == [("new", "done", ""), ("mid", "interrupted", ""), ("old", "failed", "<b>broke</b>")]


def test_a_damaged_run_does_not_hide_the_others(project: Path) -> None:
    write_run(project, "good", "run_finished")
    (write_run(project, "bad", "run_finished") / "run.yaml").write_text("{")
    [response] = ask(project, get("/api/runs"))
    assert [run["id"] for run in response.json()["data"]] == ["good"]


def test_the_report_is_shown_without_scripts_and_without_the_network(project: Path) -> None:
    folder = write_run(project, "a", "run_finished")
    (folder / "report.html").write_text("<p>fine</p>")
    (folder / "report.json").write_text('{"schema": 1}')
    page, data = ask(project, get("/api/runs/a/report"), get("/api/runs/a/report.json"))
    assert page.text == "<p>fine</p>"
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert data.json() == {"schema": 1}


def test_the_events_of_a_finished_run_are_told_once_and_from_any_line_on(project: Path) -> None:
    write_run(project, "a", "run_failed")
    whole, rest, nothing, odd = ask(
        project,
        get("/api/runs/a/events"),
        get("/api/runs/a/events", **{"Last-Event-ID": "1"}),
        get("/api/runs/a/events", **{"Last-Event-ID": "2"}),
        get("/api/runs/a/events", **{"Last-Event-ID": "x"}),
    )
    assert [line for line in whole.text.splitlines() if line.startswith(("id", "event"))] == [
        *("event: run_started", "id: 1", "event: run_failed", "id: 2", "event: end")
    ]
    assert 'data: {"state": "failed", "error": "<b>broke</b>"}' in whole.text
    assert [line for line in rest.text.splitlines() if line.startswith("id")] == ["id: 2"]
    assert nothing.status_code == 204
    assert odd.status_code == 400


def test_nothing_can_be_stopped_that_does_not_run(project: Path) -> None:
    write_run(project, "a", "run_finished")
    done, absent = ask(project, post("/api/runs/a/cancel", {}), post("/api/runs/b/cancel", {}))
    assert (done.status_code, absent.status_code) == (409, 404)


def test_addresses_and_methods_that_are_not_there_are_told_in_the_same_shape(project: Path) -> None:
    for response, status in zip(
        ask(project, get("/nothing"), post("/healthz", {}), get("/static/../app.py"), get("/docs")),
        (404, 405, 404, 404),
        strict=True,
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


BAD_CHATS = [
    ({"n": 10**6}, "n"),
    ({"n": 0}, "n"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "x"}] * 300}, "messages"),
    ({"tools": [{}]}, "tools"),
    ({"logprobs": True}, "logprobs"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, None),
    ({"max_tokens": 5, "max_completion_tokens": 6}, None),
]


def test_a_chat_request_that_cannot_be_met_is_422(project: Path) -> None:
    sent = [post("/v1/chat/completions", {**HELLO, **change}) for change, _ in BAD_CHATS]
    for response, (change, param) in zip(ask(project, *sent), BAD_CHATS, strict=True):
        assert response.status_code == 422, change
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").startswith(param or ""), change
        assert bool(error["param"]) == bool(param), change


def test_a_huge_request_is_refused_within_50_milliseconds_and_the_next_one_is_answered(project: Path) -> None:
    async def run() -> float:
        async with open_client(project) as client:
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                response = await client.post("/v1/chat/completions", json={**HELLO, "n": 10**6})
                seconds.append(time.perf_counter() - start)
                assert response.status_code == 422
            assert (await client.get("/healthz")).status_code == 200
            return min(seconds)

    assert asyncio.run(run()) < 0.05


def test_a_model_that_does_not_exist_is_404_as_openai_says_it(project: Path) -> None:
    chat, one = ask(project, post("/v1/chat/completions", {**HELLO, "model": "gpt-9"}), get("/v1/models/gpt-9"))
    for response in (chat, one):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


def test_a_second_service_in_the_same_folder_is_refused(project: Path) -> None:
    from cai.errors import FolderInUse

    async def run() -> None:
        async with open_client(project):
            with pytest.raises(FolderInUse, match="is working in this folder"):
                async with open_client(project):
                    pass

    asyncio.run(run())
