"""An OpenAI-compatible endpoint that misbehaves on purpose: plain asyncio on 127.0.0.1, on a thread of its own.

`plan(asked, attempt)` names what is done with each call: "ok", or a fault of `FAULTS`. The server remembers every call
and what it answered, so a test can tell what was paid for. It answers by rule, so that nothing has to be recorded.
"""

import asyncio
import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

Plan = Callable[["Asked", int], str]
HELLO = "Say hello."


@dataclass(frozen=True)
class Asked:
    """One call, as the server saw it."""

    body: dict[str, object]
    key: str
    """A hash of the body: the same question gives the same key."""
    authorization: str = ""

    @property
    def words(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        messages = self.body["messages"]
        assert isinstance(messages, list)
        return str(messages[-1]["content"])

    @property
    def probes(self) -> bool:
        return self.words == HELLO


@dataclass
class Served:
    """What the server did, and how it is set up."""

    plan: Plan = lambda asked, attempt: "ok"
    answer: Callable[[Asked], str] = lambda asked: f"reply to {asked.words}"
    p_of_a: Callable[[Asked], float] = lambda asked: 0.75
    logprobs: bool = True
    schema: bool = True
    seed: bool = True
    limit: str = "max_tokens"
    usage: bool = True
    completions: bool = True
    """Whether it goes on with plain text."""
    chats: bool = True
    calls_tool: dict[str, object] | None = None
    """The call that it makes wherever tools are offered."""
    delay: float = 0.0
    model: str = "small"
    models: list[dict[str, object]] | None = None
    calls: list[Asked] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    """Whole replies that were sent, by key."""
    faults: Counter[str] = field(default_factory=Counter)
    note: Callable[[Asked], None] = lambda asked: None
    most_at_once: int = 0
    at_once: int = 0
    url: str = ""


def reply_of(served: Served, asked: Asked) -> dict[str, object]:
    """A whole, correct reply."""
    if "prompt" in asked.body:
        return text_of(served, asked)
    body, text, ending = asked.body, served.answer(asked), "stop"
    choice: dict[str, object] = {"index": 0}
    if "logprobs" in body and served.logprobs:
        p = served.p_of_a(asked)
        top = [("A", p * 0.9), (" B", (1 - p) * 0.9), ("The", 0.05)]
        told = [{"token": token, "logprob": math.log(max(q, 1e-9)), "bytes": None} for token, q in top]
        choice["logprobs"] = {"content": [{"token": "A", "logprob": told[0]["logprob"], "top_logprobs": told}]}
        text, ending = "A", "length"
    elif "response_format" in body and served.schema:
        words = body["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"]  # type: ignore[index]
        text = json.dumps({"choice": words[0] if served.p_of_a(asked) >= 0.5 else words[1]})
    message: dict[str, object] = {"role": "assistant", "content": text}
    if served.calls_tool and "tools" in body:
        message |= {"content": None, "tool_calls": [served.calls_tool]}
        ending = "tool_calls"
    choice |= {"message": message, "finish_reason": ending}
    reply: dict[str, object] = {"id": "x", "object": "chat.completion", "model": served.model, "choices": [choice]}
    if served.usage:
        reply["usage"] = {"prompt_tokens": 10, "completion_tokens": len(text.split()), "total_tokens": 0}
    return reply


def text_of(served: Served, asked: Asked) -> dict[str, object]:
    """A whole, correct reply to a plain text, as `/completions` gives it."""
    choice: dict[str, object] = {"index": 0, "text": served.answer(asked), "finish_reason": "stop", "logprobs": None}
    if "logprobs" in asked.body and served.logprobs:
        p = served.p_of_a(asked)
        top = {"A": math.log(p * 0.6), "A).": math.log(p * 0.3), "B": math.log((1 - p) * 0.9), "x": math.log(0.05)}
        choice |= {"text": "A", "finish_reason": "length", "logprobs": {"tokens": ["A"], "top_logprobs": [top]}}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return {"id": "x", "object": "text_completion", "model": served.model, "choices": [choice], "usage": usage}


def stream_of(served: Served, asked: Asked) -> bytes:
    """The same reply as events."""
    whole, plain = reply_of(served, asked), "prompt" in asked.body
    choice = whole["choices"][0]  # type: ignore[index]
    text = choice["text"] if plain else choice["message"]["content"]
    head = {"id": "x", "object": "text_completion" if plain else "chat.completion.chunk", "model": served.model}
    pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
    chunks: list[dict[str, object]] = [
        {"index": 0, "text": piece} if plain else {"index": 0, "delta": {"content": piece}} for piece in pieces
    ]
    chunks.append({"index": 0, "text" if plain else "delta": "" if plain else {}, "finish_reason": "stop"})
    events: list[dict[str, object]] = [{**head, "choices": [chunk]} for chunk in chunks]
    events.append({**head, "choices": [], "usage": whole.get("usage")})
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


def head_of(status: int, length: int | None, kind: str = "application/json", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", *more]
    lines += [f"Content-Length: {length}"] if length is not None else ["Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def error_of(message: str, code: str = "") -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}}).encode()


def echo_of(fault: str, asked: Asked) -> bytes:
    """Errors that repeat the key, as careless servers do."""
    body = error_of(f"you sent {asked.authorization}")
    if fault == "html":
        body = f"{asked.authorization} <html>".encode()
    if fault == "stream":
        body = b"data: " + body + b"\n\n"
        return head_of(200, len(body), "text/event-stream") + body
    return head_of(200 if fault == "html" else int(fault), len(body)) + body


# What is sent instead of a reply, whole: status, body, kind of content, further headers.
_SIMPLE: dict[str, tuple[int, bytes, tuple[str, ...]]] = {
    "401": (401, error_of("bad key"), ()),
    "403": (403, error_of("not yours"), ()),
    "402": (402, error_of("pay first"), ()),
    "404": (404, error_of("no such route"), ()),
    "400": (400, error_of("unknown parameter"), ()),
    "too long": (400, error_of("maximum context length is 10 tokens", "context_length_exceeded"), ()),
    "quota": (429, error_of("You exceeded your quota", "insufficient_quota"), ()),
    "429": (429, error_of("slow down"), ()),
    "429 seconds": (429, error_of("slow down"), ("Retry-After: 0",)),
    "429 soon": (429, error_of("slow down"), ("Retry-After: 60",)),
    "429 an hour": (429, error_of("slow down"), ("Retry-After: 3600",)),
    "500": (500, error_of("oops"), ()),
    "503": (503, b"busy", ()),
    "redirect": (302, b"", ("Location: http://127.0.0.1:9/elsewhere",)),
    "html": (200, b"<html><body>Welcome to the proxy</body></html>", ()),
    "bad json": (200, b'{"choices": [{"index": 0, "mess', ()),
    "not an object": (200, b"[1, 2]", ()),
    "empty body": (200, b"", ()),
    "deep json": (200, b"[" * 200_000, ()),
}
_CHANGED: dict[str, Callable[[dict[str, object]], object]] = {
    "empty choices": lambda reply: reply.update(choices=[]),
    "no finish": lambda reply: reply["choices"][0].update(finish_reason=None),  # type: ignore[index]
    "no message": lambda reply: reply["choices"][0].pop("message"),  # type: ignore[index]
    "wrong model": lambda reply: reply.update(model="another-model"),
    "second choice only": lambda reply: reply["choices"][0].update(index=1),  # type: ignore[index]
    "two first choices": lambda reply: reply["choices"].append(  # type: ignore[attr-defined]
        {"index": 0, "message": {"content": "another"}, "finish_reason": "stop"}
    ),
    "error with 200": lambda reply: reply.update(error={"message": "oops"}),
    # These are correct, only unusual.
    "choices reversed": lambda reply: reply["choices"].insert(  # type: ignore[attr-defined]
        0, {"index": 1, "message": {"content": "second"}, "finish_reason": "stop"}
    ),
    "choice twice": lambda reply: reply["choices"].append(reply["choices"][0]),  # type: ignore[attr-defined, index]
    "content filter": lambda reply: reply["choices"][0].update(finish_reason="content_filter"),  # type: ignore[index]
    "tool call": lambda reply: reply["choices"][0].update(finish_reason="tool_calls"),  # type: ignore[index]
    "cut off": lambda reply: reply["choices"][0].update(finish_reason="length"),  # type: ignore[index]
}
ODD_BUT_GOOD = ("ok", "choices reversed", "choice twice", "content filter", "tool call", "cut off")
SLOW = ("hang", "drip", "endless")
CUT = ("reset", "cut body", "cut stream")
PASSING = (
    *("hang", "reset", "429", "429 seconds", "429 date", "500", "503", "html", "bad json", "empty choices"),
    *("drip", "endless", "cut body", "cut stream", "redirect", "wrong model", "two first choices", "no finish"),
)
"""The faults that a retry may mend; a redirect and a wrong model only where the endpoint has answered before."""


async def serve(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (asked := await _asked(served, reader, writer)) is not None:
            served.at_once += 1
            served.most_at_once = max(served.most_at_once, served.at_once)
            try:
                again = await _respond(served, asked, writer)
            finally:
                served.at_once -= 1
            if not again:
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _asked(served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if head.startswith("GET"):
        known = served.models if served.models is not None else [{"id": served.model, "max_model_len": 4096}]
        content = json.dumps({"object": "list", "data": known}).encode()
        writer.write(head_of(200, len(content)) + content)
        await writer.drain()
        return await _asked(served, reader, writer)
    asked = Asked(json.loads(body), hashlib.sha256(body).hexdigest(), headers.get("authorization", ""))
    path = "/v1/completions" if "prompt" in asked.body else "/v1/chat/completions"
    assert head.startswith(f"POST {path} "), head
    served.calls.append(asked)
    return asked


async def _respond(served: Served, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    """Does what the plan says; whether the connection may go on."""
    served.attempts[asked.key] += 1
    fault = _unfit(served, asked) or served.plan(asked, served.attempts[asked.key])
    if served.delay:
        await asyncio.sleep(served.delay)
    if fault == "ok" and asked.body.get("stream"):
        events = stream_of(served, asked)
        writer.write(head_of(200, len(events), "text/event-stream; charset=utf-8") + events)
        await _paid(served, asked, writer)
        return True
    if fault in (*_CHANGED, "ok"):
        reply = reply_of(served, asked)
        if fault in _CHANGED:
            _CHANGED[fault](reply)
        content = json.dumps(reply).encode()
        writer.write(head_of(200, len(content)) + content)
        if fault in ODD_BUT_GOOD:
            await _paid(served, asked, writer)
            return True
    elif fault in _SIMPLE:
        status, content, more = _SIMPLE[fault]
        writer.write(head_of(status, len(content), "application/json", *more) + content)
    elif fault.startswith("echo "):
        writer.write(echo_of(fault.removeprefix("echo "), asked))
    elif fault == "429 date":
        date = format_datetime(datetime.now(UTC) - timedelta(seconds=1), usegmt=True)
        writer.write(head_of(429, 0, "application/json", f"Retry-After: {date}"))
    else:
        served.faults[fault] += 1
        return await _misbehave(served, asked, writer, fault)
    served.faults[fault] += 1
    await writer.drain()
    return True


def _unfit(served: Served, asked: Asked) -> str:
    """What this endpoint does not take at all."""
    if not (served.completions if "prompt" in asked.body else served.chats):
        return "404"
    if "prompt" in asked.body:
        return "400" if "max_completion_tokens" in asked.body or ("seed" in asked.body and not served.seed) else ""
    wrong_limit = {"max_tokens", "max_completion_tokens"} & asked.body.keys() != {served.limit}
    return "400" if wrong_limit or ("seed" in asked.body and not served.seed) else ""


async def _paid(served: Served, asked: Asked, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    served.paid[asked.key] += 1
    served.note(asked)


async def _misbehave(served: Served, asked: Asked, writer: asyncio.StreamWriter, fault: str) -> bool:
    if fault == "hang":
        await asyncio.sleep(30)
    elif fault == "reset":
        writer.transport.abort()
    elif fault == "drip":
        writer.write(head_of(200, 10_000))
        for _ in range(300):
            writer.write(b"{")
            await writer.drain()
            await asyncio.sleep(0.1)
    elif fault == "endless":
        writer.write(head_of(200, None))
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
    elif fault == "cut body":
        content = json.dumps(reply_of(served, asked)).encode()
        writer.write(head_of(200, len(content)) + content[: len(content) * 2 // 3])
        await writer.drain()
    elif fault == "cut stream":
        events = stream_of(served, asked)
        cut = int(asked.key[:8], 16) % (len(events) - 1)
        writer.write(head_of(200, None, "text/event-stream") + events[:cut])
        await writer.drain()
    else:
        raise AssertionError(f"there is no fault {fault!r}")
    return False


@contextmanager
def running(served: Served) -> Iterator[Served]:
    """The server on a free port, until the block ends."""
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def live(stop: asyncio.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = loop.create_task(serve(served, reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        await stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(live(stop)), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
