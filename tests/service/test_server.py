"""A really started server, spoken to by OpenAI's own client and by nothing that knows its inside."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.service.conftest import Server

FINISHED = ("done", "failed", "cancelled")
ASK = "Do you know how to kick the neighbour's bike?"
LONG = {"model": "tiny", "messages": [{"role": "user", "content": ASK}], "max_tokens": 64, "seed": 3}


def submit(server: Server, name: str, *changes: tuple[str, str]) -> httpx.Response:
    text = (server.project / "small.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return httpx.post(f"{server.url}/api/runs", json={"pipeline": text, "name": name}, timeout=30)


def told(server: Server, name: str) -> dict[str, object]:
    return httpx.get(f"{server.url}/api/runs/{name}", timeout=30).json()


def wait_for(found: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def wait_until_over(server: Server, name: str) -> dict[str, object]:
    wait_for(lambda: told(server, name)["state"] in FINISHED)
    return told(server, name)


def records(run: Path) -> dict[str, bytes]:
    """Every file of the run that may not differ between two runs of one pipeline."""
    names = ("records.jsonl", "rejects.jsonl", "metrics.jsonl", "adapter_model.safetensors")
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.name in names}
    assert any(name.endswith("metrics.jsonl") for name in found), found.keys()
    return {name: data for name, data in found.items() if "/checkpoints/" not in name}


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none-needed", max_retries=0, timeout=120) as client:
        yield client


def test_a_run_over_http_gives_the_records_of_one_from_the_command_line(server: Server, client: openai.OpenAI) -> None:
    response = submit(server, "over-http")
    assert response.status_code == 202
    assert response.headers["Location"] == "/api/runs/over-http"
    assert response.json()["id"] == "over-http"
    kinds, last = [], ""
    with httpx.stream("GET", f"{server.url}/api/runs/over-http/events", timeout=120) as stream:
        for line in stream.iter_lines():
            kinds += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            last = line.removeprefix("data: ") if line.startswith("data: ") else last
    assert [kinds[0], kinds[-2], kinds[-1]] == ["run_started", "run_finished", "end"]
    assert {"progress", "metrics", "stage_finished"} <= set(kinds)
    assert json.loads(last) == {"state": "done", "error": ""}

    done = subprocess.run(
        [sys.executable, "-m", "cai.cli.main", "run", "small.yaml", "--out", "by-hand"],
        cwd=server.project,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=200,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert records(server.runs / "over-http") == records(server.project / "by-hand")
    report = httpx.get(f"{server.url}/api/runs/over-http/report.json").json()
    assert (report["schema"], report["run"]) == (1, "over-http")
    assert "<html" in httpx.get(f"{server.url}/api/runs/over-http/report").text

    assert {"tiny", "over-http"} <= {model.id for model in client.models.list()}
    asked = {"messages": LONG["messages"], "seed": 5, "max_tokens": 32}
    tuned = client.chat.completions.create(model="over-http", **asked)
    assert tuned.model == "over-http"
    assert submit(server, "over-http").status_code == 202, "a finished run may be asked for again"
    assert wait_until_over(server, "over-http")["state"] == "done"


def test_the_openai_client_gets_an_answer_and_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**LONG, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.role == "assistant" and choice.message.content for choice in answer.choices)
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens > 0 < usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**LONG, n=2)
    chunks = list(client.chat.completions.create(**LONG, n=2, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(delta.delta.content or "" for delta in own) == choice.message.content
        assert own[0].delta.role == "assistant"
        assert [delta.finish_reason for delta in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == choice.finish_reason
        assert len(own) > 3, "words come one by one"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_a_seed_repeats_an_answer_and_without_one_answers_differ(client: openai.OpenAI) -> None:
    def answers(**change: object) -> set[str | None]:
        asked = {**LONG, "temperature": 2.0, "max_tokens": 24, **change}
        return {client.chat.completions.create(**asked).choices[0].message.content for _ in range(3)}

    assert len(answers(seed=11)) == 1
    assert len(answers(seed=None)) > 1
    assert answers(seed=11) != answers(seed=12)


def test_an_answer_ends_where_it_is_told_to(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**{**LONG, "temperature": 0}).choices[0]
    words = (whole.message.content or "").split(" ")
    assert len(words) > 3
    cut = client.chat.completions.create(**{**LONG, "temperature": 0}, stop=f" {words[2]}").choices[0]
    assert (cut.message.content, cut.finish_reason) == (" ".join(words[:2]), "stop")
    short = client.chat.completions.create(**{**LONG, "temperature": 0, "max_tokens": 2})
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)


def test_system_messages_and_parts_are_understood(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": ASK[:10]}, {"type": "text", "text": ASK[10:]}]
    asked = {**LONG, "temperature": 0}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    assert (
        client.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": parts}]})
        .choices[0]
        .message.content
        == plain
    )


def test_the_clients_own_errors_are_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**LONG, "model": "absent"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.chat.completions.create(**LONG, n=10**6)
    assert wrong.value.param == "n"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**{**LONG, "messages": [{"role": "user", "content": "word " * 20000}]})
    assert long.value.code == "context_length_exceeded"


def test_a_client_that_goes_away_frees_the_worker(server: Server, client: openai.OpenAI) -> None:
    asked = {**LONG, "temperature": 2.0, "n": 8, "max_tokens": 512}
    with client.chat.completions.create(**asked, stream=True) as stream:
        next(iter(stream))
    start = time.monotonic()
    client.chat.completions.create(**{**LONG, "max_tokens": 1})
    client_gone = time.monotonic() - start
    start = time.monotonic()
    client.chat.completions.create(**asked)
    assert client_gone < time.monotonic() - start


def test_the_embedded_model_answers_beside_a_run_and_a_waiting_run_can_be_stopped(
    server: Server, client: openai.OpenAI
) -> None:
    long = (("limit: 8}, test", "limit: 400}, test"), ("chunk: 3, max", "chunk: 8, max"))
    assert submit(server, "long", *long).status_code == 202
    assert submit(server, "waits", *long).status_code == 202
    assert submit(server, "long", *long).status_code == 409
    wait_for(lambda: told(server, "long")["stages"] and told(server, "long")["stages"][0]["done"])
    assert client.chat.completions.create(**LONG).choices[0].message.content
    assert told(server, "long")["state"] == "running", "the answer came while it ran"
    assert told(server, "waits")["state"] == "queued"
    for name in ("waits", "long"):
        assert httpx.post(f"{server.url}/api/runs/{name}/cancel", json={}).status_code == 202
        assert wait_until_over(server, name)["state"] == "cancelled"


def test_a_run_goes_on_where_it_was_after_its_worker_and_after_its_server_was_killed(
    starts: Callable[[], Server], server: Server
) -> None:
    first = starts()
    assert submit(first, "killed").status_code == 202
    wait_for((first.runs / "killed" / "events.jsonl").exists)
    worker = first.worker()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: first.worker() != worker)
    wait_for(lambda: any(stage["state"] == "done" for stage in told(first, "killed")["stages"]))
    first.stop(signal.SIGKILL)
    second = starts()
    assert wait_until_over(second, "killed")["state"] == "done"
    job = sqlite3.connect(second.runs / ".service" / "queue.sqlite3").execute("SELECT state, deaths, token FROM jobs")
    assert job.fetchall() == [("done", 2, 3)]
    if (server.runs / "over-http").exists():
        assert records(second.runs / "killed") == records(server.runs / "over-http")


def test_a_run_that_fails_says_why_and_the_worker_lives_on(server: Server) -> None:
    change = ("base: tiny", "base: absent-model")
    assert submit(server, "fails", change).status_code == 202
    run = wait_until_over(server, "fails")
    assert run["state"] == "failed"
    assert "absent-model" in str(run["error"])
    assert submit(server, "fails", change).status_code == 202
    assert wait_until_over(server, "fails")["state"] == "failed"


def test_the_server_ends_cleanly_with_a_stream_open(starts: Callable[[], Server]) -> None:
    server = starts()
    with httpx.stream("GET", f"{server.url}/api/events", timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: runs"
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 20
    assert (server.project / "server.log").read_text() == ""
    assert server.process.stdout.read() == "", "the address is all it says"


def test_an_address_in_use_and_an_open_one_are_refused_with_exit_code_2(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, says in ((["--port", port], "cannot be used"), (["--host", "0.0.0.0"], "no keys yet")):
            done = subprocess.run(
                [sys.executable, "-m", "cai.cli.main", "serve", *options],
                cwd=project,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 2
            assert says in done.stderr
            assert done.stderr.count("\n") == 1
    assert not (project / "runs").exists()
