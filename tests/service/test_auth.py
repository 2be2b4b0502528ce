"""Who may speak to the service, seen through the gate alone."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from cai.errors import InputError
from cai.service.auth import App, Gate, check_loopback, hosts_of

PORT = 8642


async def _echo(scope, receive, send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"reached:" + body})


def ask(method: str, headers: dict[str, str], content: object = b"", app: App = _echo) -> httpx.Response:
    async def run() -> httpx.Response:
        gate = Gate(app, hosts_of("127.0.0.1", PORT), max_body=64)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(gate), base_url=f"http://localhost:{PORT}"
        ) as client:
            return await client.request(method, "/", headers=headers, content=content)

    return asyncio.run(run())


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"127.0.0.1:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_every_name_of_this_server_is_answered(host: str) -> None:
    assert ask("GET", {"Host": host}).text == "reached:"


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "localhost", "localhost:1", f"localhost.evil.example:{PORT}",
     f"evil@localhost:{PORT}", f"localhost:{PORT}/path", f"127.0.0.1:{PORT}, evil", "::1", f"127.1:{PORT}", ""],
)  # fmt: skip
def test_any_other_host_is_400(host: str) -> None:
    response = ask("GET", {"Host": host})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_two_host_headers_are_400() -> None:
    headers = httpx.Headers([("Host", f"localhost:{PORT}"), ("Host", f"localhost:{PORT}")])
    assert ask("GET", headers).status_code == 400


@pytest.mark.parametrize("origin", [f"http://localhost:{PORT}", f"http://127.0.0.1:{PORT}", f"http://[::1]:{PORT}"])
def test_our_own_page_may_post(origin: str) -> None:
    assert ask("POST", {**JSON, "Origin": origin}, b"{}").text == "reached:{}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://localhost:{PORT}"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_page_of_another_site_may_change_nothing(method: str, headers: dict[str, str]) -> None:
    assert ask(method, {**JSON, **headers}, b"{}").status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_only_json_is_taken(kind: str) -> None:
    assert ask("POST", {"Content-Type": kind}, b"{}").status_code == 415


def test_json_may_name_its_charset() -> None:
    assert ask("POST", {"Content-Type": "application/json; charset=UTF-8"}, b"{}").status_code == 200


def test_a_body_is_taken_up_to_its_limit() -> None:
    assert ask("POST", JSON, b"x" * 64).text == "reached:" + "x" * 64
    assert ask("POST", JSON, b"x" * 65).status_code == 413


def test_a_body_that_does_not_tell_its_length_is_counted() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 16

    assert ask("POST", JSON, pieces()).status_code == 413


@pytest.mark.parametrize("length", ["9" * 30, "-1", "1e9", "٣"])
def test_a_length_that_is_no_small_number_is_refused(length: str) -> None:
    headers = httpx.Headers({**JSON, "Content-Length": length.encode()})
    assert ask("POST", headers, b"{}").status_code in (400, 413)


def test_every_answer_carries_the_safe_headers_and_no_door_for_other_sites() -> None:
    for response in (ask("GET", {}), ask("GET", {"Host": "evil"})):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "localhost.evil.example"])
def test_an_address_that_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="no keys yet") as caught:
        check_loopback(host)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("host", "address"), [("localhost", "127.0.0.1"), ("127.0.0.9", "127.0.0.9"), ("[::1]", "::1")]
)
def test_loopback_addresses_are_taken(host: str, address: str) -> None:
    assert check_loopback(host) == address
