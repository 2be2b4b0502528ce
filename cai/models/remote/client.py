"""One HTTP call and its reply, or a `Fault`: no redirects, no compression, a cap on the size, a deadline on the whole.

Retries live in `calls`, the reading of what came in `wire`. The only module that imports httpx.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import httpx

from cai.models.remote.faults import Fault, fault_of_status
from cai.models.remote.key import Key
from cai.models.remote.spec import RemoteSpec
from cai.models.remote.wire import Answer, StreamReader, read_answer

CHAT, TEXT = "chat/completions", "completions"
_ERROR_BYTES = 64 * 1024
Work = TypeVar("Work")


class Client:
    """Owns the connections to one endpoint. Everything here belongs to one event loop."""

    def __init__(self, spec: RemoteSpec, key: Key) -> None:
        self._spec = spec
        self._key = key
        timeouts = httpx.Timeout(spec.idle_seconds, connect=spec.connect_seconds, pool=None)
        self._http = httpx.AsyncClient(
            # A compressed body could be a thousand times what its size says.
            headers={**key.headers(), "Accept-Encoding": "identity", "User-Agent": "cai"},
            timeout=timeouts,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=spec.concurrency),
            follow_redirects=False,
            # Proxies and .netrc would send the key, or another one, where the settings do not say. Certificates of
            # one's own (SSL_CERT_FILE) may come from the environment.
            trust_env=False,
            verify=httpx.create_ssl_context(),
        )

    async def post(self, body: bytes, seconds: float, path: str = CHAT) -> Answer:
        """The reply to a completion of a chat or of a text."""
        answer = await _within(seconds, self._answer(body, path))
        text, served = self._key.redact(answer.text), self._key.redact(answer.served)
        return replace(answer, text=text, served=served)

    async def models(self, seconds: float) -> list[dict[str, object]]:
        """What `/models` lists; empty where the endpoint has no such list."""
        try:
            value = json.loads(await _within(seconds, self._list()))
        except (ValueError, RecursionError):
            return []
        except Fault as fault:
            if fault.kind in ("absent", "setup", "row") or fault.reason == "server error":
                return []
            raise
        listed = value.get("data") if isinstance(value, dict) else None
        return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []

    async def close(self) -> None:
        await self._http.aclose()

    async def _answer(self, body: bytes, path: str) -> Answer:
        headers = {"Content-Type": "application/json"}
        url = f"{self._spec.base}/{path}"
        async with self._http.stream("POST", url, content=body, headers=headers) as response:
            await self._check(response)
            async with aclosing(self._pieces(response)) as pieces:
                if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
                    return read_answer(self._text(b"".join([piece async for piece in pieces])))
                reader = StreamReader(self._key.redact)
                async for piece in pieces:
                    reader.feed(piece)
                    if reader.complete:
                        break
                return reader.answer()

    async def _list(self) -> str:
        async with self._http.stream("GET", f"{self._spec.base}/models") as response:
            await self._check(response)
            async with aclosing(self._pieces(response)) as pieces:
                return self._text(b"".join([piece async for piece in pieces]))

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code == 200:
            return
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece[: _ERROR_BYTES - len(body)]
            if len(body) == _ERROR_BYTES:
                break
        retry_after = response.headers.get("retry-after")
        raise fault_of_status(response.status_code, self._text(bytes(body)), retry_after, datetime.now(UTC))

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise Fault("again", "unclear reply", f"it is encoded as {encoding!r}, which nobody asked for")
        size, most = 0, self._spec.max_bytes
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > most:
                raise Fault("again", "too large", f"the reply has more than {most} bytes")
            yield piece

    def _text(self, body: bytes) -> str:
        return self._key.redact(body.decode("utf-8", "replace"))


async def _within(seconds: float, work: Awaitable[Work]) -> Work:
    """The work's result, and whatever goes wrong on the way as a `Fault` that names only the kind of error: its text
    may hold what was sent."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Fault("again", "timeout", f"no whole reply within {seconds:g} s") from None
    except httpx.TimeoutException as error:
        busy = isinstance(error, httpx.ConnectTimeout)
        raise Fault("again", "timeout", type(error).__name__, busy=busy) from None
    except httpx.ConnectError as error:
        raise Fault("absent", "no connection", type(error).__name__, "see that the endpoint is running") from None
    except httpx.TransportError as error:
        raise Fault("again", "connection lost", type(error).__name__) from None
