"""A hub of one repository on this machine, that can refuse, cut connections, and send readers to another host."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

REPO = "org/model"
FIRST, SECOND = "1" * 40, "2" * 40


@dataclass(frozen=True)
class Seen:
    method: str
    host: str
    path: str
    authorization: str | None
    range: str | None


@dataclass
class Hub:
    """What is served, and what was asked. `main` is the commit that the branch stands for."""

    files: dict[str, bytes]
    main: str = FIRST
    mood: Literal["well", "gated", "missing", "silent"] = "well"
    cuts: dict[str, int] = field(default_factory=dict)
    """How often a file's connection still ends early: after its first half, or at once where it is to go on."""
    elsewhere: str = ""
    """Another address of this hub, to which large files are sent."""
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    def asked(self, part: str) -> list[Seen]:
        return [each for each in self.seen if part in each.path]


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    class Desk(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            _answer(self, hub)

        def do_GET(self) -> None:
            _answer(self, hub)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Desk)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.elsewhere = f"http://localhost:{server.server_port}" if hub.elsewhere else ""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _answer(desk: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = urlsplit(desk.path).path
    headers = desk.headers
    seen = Seen(desk.command, headers["Host"] or "", path, headers["Authorization"], headers["Range"])
    hub.seen.append(seen)
    if hub.mood == "silent":
        threading.Event().wait(6)
        return
    name = path.partition("/resolve/")[2].partition("/")[2] or path.removeprefix("/blobs/")
    if hub.mood == "missing":
        _say(desk, 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
    elif path.startswith(f"/api/models/{REPO}/revision/"):
        _revision(desk, hub, path.rpartition("/")[2])
    elif path.startswith(f"/api/models/{REPO}/tree/"):
        _say(desk, 200, [_entry(name, data) for name, data in hub.files.items()])
    elif name not in hub.files:
        _say(desk, 404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"})
    elif hub.mood == "gated":
        _say(desk, 403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
    else:
        _file(desk, hub, seen, name)


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}


def _revision(desk: BaseHTTPRequestHandler, hub: Hub, revision: str) -> None:
    commit = hub.main if revision == "main" else revision
    if commit not in (FIRST, SECOND):
        _say(desk, 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        return
    _say(desk, 200, {"id": REPO, "sha": commit, "siblings": [{"rfilename": name} for name in hub.files]})


def _file(desk: BaseHTTPRequestHandler, hub: Hub, seen: Seen, name: str) -> None:
    data = hub.files[name]
    commit = seen.path.partition("/resolve/")[2].partition("/")[0]
    tag = f'"{sha1(data).hexdigest()}"'
    facts = {"ETag": tag, "X-Repo-Commit": FIRST if commit == "main" else commit, "Accept-Ranges": "bytes"}
    if hub.elsewhere and name.endswith(".safetensors") and not seen.path.startswith("/blobs/"):
        facts |= {"Location": f"{hub.elsewhere}/blobs/{name}", "X-Linked-Etag": tag, "X-Linked-Size": str(len(data))}
        _say(desk, 302, None, facts)
        return
    start = int(seen.range.removeprefix("bytes=").partition("-")[0]) if seen.range else 0
    if start:
        facts["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    part = data[start:]
    if hub.cuts.get(name) and desk.command == "GET":
        hub.cuts[name] -= 1
        part, announced = (b"" if start else part[: len(part) // 2]), len(part)
        _head(desk, 206 if start else 200, {**facts, "Content-Length": str(announced)})
        desk.wfile.write(part)
        desk.close_connection = True
        return
    _head(desk, 206 if start else 200, {**facts, "Content-Length": str(len(part))})
    if desk.command == "GET":
        desk.wfile.write(part)


def _say(desk: BaseHTTPRequestHandler, code: int, value: object, headers: dict[str, str] | None = None) -> None:
    body = b"" if value is None else json.dumps(value).encode()
    _head(desk, code, {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})})
    if desk.command == "GET":
        desk.wfile.write(body)


def _head(desk: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    desk.send_response(code)
    for name, value in headers.items():
        desk.send_header(name, value)
    desk.end_headers()
