"""Who may speak to the service: this machine, and no page of another site that a browser here has open.

One piece of middleware in front of everything, so that no route can forget it. There are no keys yet; that is why only
loopback addresses are served at all.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from cai.errors import InputError

MAX_BODY = 1024 * 1024
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_NOTHING = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

# The shapes of ASGI, which no library types more narrowly.
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Denied(Exception):
    """A request that goes no further: status and reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


def check_loopback(host: str) -> str:
    """The address to bind; any that another machine could reach is refused."""
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        remedy = "use 127.0.0.1 or ::1, and a tunnel such as `ssh -L` to reach it from elsewhere"
        raise InputError("--host", "is not a loopback address, and there are no keys yet", host, remedy)
    return address


def hosts_of(address: str, port: int) -> frozenset[str]:
    """Every `Host` header that means this server, to the letter."""
    names = {"localhost", "127.0.0.1", "[::1]", f"[{address}]" if ":" in address else address}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


class Gate:
    """Turns away what is not from here, what is no JSON, and what is too big; adds the safe headers to every answer."""

    def __init__(self, app: App, hosts: Iterable[str], max_body: int = MAX_BODY) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        try:
            self._check(scope)
            receive = await _whole_body(receive, self._max_body) if scope["method"] not in SAFE else receive
        except Denied as denied:
            await _deny(send, denied)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        host = _one(headers, b"host").lower()
        if host not in self._hosts:
            raise Denied(400, f"this server is not {host or 'without a name'!r}")
        if scope["method"] in SAFE:
            return
        origin = _one(headers, b"origin")
        if origin and origin not in {f"http://{name}" for name in self._hosts}:
            raise Denied(403, "a page of another site may not do this")
        if _one(headers, b"sec-fetch-site") not in ("", "same-origin", "none"):
            raise Denied(403, "a page of another site may not do this")
        kind, _, rest = _one(headers, b"content-type").partition(";")
        if kind.strip().lower() != "application/json" or rest.strip().lower() not in ("", "charset=utf-8"):
            raise Denied(415, "send JSON, with Content-Type: application/json")
        length = _one(headers, b"content-length")
        if length and (not length.isascii() or not length.isdecimal()):
            raise Denied(400, "Content-Length is not a number")
        if length and (len(length) > 12 or int(length) > self._max_body):
            raise Denied(413, f"the body is larger than {self._max_body} bytes")


def _one(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """A header that may stand once; empty where it does not stand at all."""
    found = [value for key, value in headers if key.lower() == name]
    if len(found) > 1:
        raise Denied(400, f"{name.decode()} stands {len(found)} times")
    return found[0].decode("latin-1").strip() if found else ""


async def _whole_body(receive: Receive, limit: int) -> Receive:
    """Read the body here, where it is counted, and hand it on as one message."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Denied(400, "the body broke off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise Denied(413, f"the body is larger than {limit} bytes")
        more = message.get("more_body", False)
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in (*_HEADERS, _NOTHING) if name not in present]
            message = {**message, "headers": headers}
        await send(message)

    return sending


async def _deny(send: Send, denied: Denied) -> None:
    body = json.dumps(error_body(denied.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": denied.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """An error as OpenAI's clients read it; every route answers in this shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
