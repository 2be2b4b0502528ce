"""A remote model as the rest of the project sees it: synchronous outside, asynchronous inside, every reply kept.

    with open_remote(spec, folder) as judge:
        choices = judge.choose(requests)

The calls run on a thread with an event loop of its own, so a caller may be in any thread, and in a loop as well.
"""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast
from weakref import WeakValueDictionary

from cai.models.protocol import Choice, ChoiceRequest, Failed, Finish, Reply, Request, Sampling
from cai.models.remote.budget import Budget, Tokens
from cai.models.remote.calls import GRACE, Calls
from cai.models.remote.choose import Way, text_ways, ways
from cai.models.remote.client import Client
from cai.models.remote.faults import Fault
from cai.models.remote.key import Key, read_key
from cai.models.remote.ledger import Ledger, Value
from cai.models.remote.probe import Abilities, has_answered, known_abilities
from cai.models.remote.spec import RemoteSpec
from cai.models.remote.wire import Answer, plain_message
from cai.records import as_dict, digest

Asked = TypeVar("Asked")
Result = TypeVar("Result")
_LOOK = 0.5
"""Seconds between looks at the wish to stop."""
_SEED_BITS = 31
"""What every server takes: some keep seeds in 32 bits with a sign."""


def open_remote(
    spec: RemoteSpec, folder: Path, name: str = "", stop: Callable[[], bool] = lambda: False
) -> "RemoteModel":
    """The model, with its journal in this folder. Nothing is asked yet; a missing key is refused at once.

    `stop` is asked twice a second while the endpoint is; then the work ends with `Interrupted`.
    """
    name = name or spec.model
    return RemoteModel(spec, folder, name, read_key(spec, _place(spec, name)), stop)


class RemoteModel:
    """Owns a journal and, from the first call on, a thread. Close it, or use it as a context."""

    def __init__(self, spec: RemoteSpec, folder: Path, name: str, key: Key, stop: Callable[[], bool]) -> None:
        self.name = name
        self._stop = stop
        self.spec = spec
        self.fingerprint = spec.fingerprint
        self._ledger = Ledger(folder)
        self._budget = Budget(spec.limits, spec.prices, self._ledger.used)
        self._key = key
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: _Session | None = None

    def generate(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        """What came of each request. What ends the job is raised; the replies so far are kept."""
        return self._run(lambda session: session.all(requests, _reply_key, session.generate))

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice | Failed]:
        """What each choice came to, and in which way it was read."""
        return self._run(lambda session: session.all(requests, _choice_key, session.choose))

    @property
    def used(self) -> Tokens:
        """All tokens that this folder's replies have taken, now and in earlier runs."""
        return self._budget.used

    @property
    def cost(self) -> float | None:
        """Of those tokens; None without prices."""
        return self._budget.cost(self._budget.used) if self.spec.prices else None

    @property
    def facts(self) -> dict[str, object]:
        """What is known of endpoint and model: what was asked for, who answered, and what was probed."""
        served, known = sorted(self._ledger.served), known_abilities(self.spec, self._ledger)
        return {"url": self.spec.base, "model": self.spec.model, "served": served, "abilities": known}

    def check_text(self) -> None:
        """Refuses an endpoint that cannot go on with a plain text. It is asked once, in a few tokens."""
        self._run(lambda session: session.check_text())

    def close(self) -> None:
        """Ends the thread. Replies that have come are on the disk before this returns."""
        if self._loop is not None and self._thread is not None:
            if self._session is not None:
                asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = self._session = None
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteModel({self.name!r} at {self.spec.host}, {self._key!r})"

    def _run(self, work: "Callable[[_Session], Coroutine[object, object, list[Result]]]") -> list[Result]:
        loop, session = self._started()
        future = asyncio.run_coroutine_threadsafe(work(session), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _started(self) -> "tuple[asyncio.AbstractEventLoop, _Session]":
        with self._starting:
            if self._loop is None or self._session is None:
                self._loop = asyncio.new_event_loop()
                name = f"remote {self.name}"
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=name, daemon=True)
                self._thread.start()
                opened = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
                self._session = opened.result()
            return self._loop, self._session

    async def _open(self) -> "_Session":
        client, place = Client(self.spec, self._key), _place(self.spec, self.name)
        known = has_answered(self.spec, self._ledger)
        return _Session(Calls(self.spec, client, self._ledger, self._budget, place, self._stop, known), self._ledger)


class _Session:
    """What lives on the event loop: the calls, what the endpoint can do, and who asks what at the moment."""

    def __init__(self, calls: Calls, ledger: Ledger) -> None:
        self.calls = calls
        self.ledger = ledger
        self.abilities = Abilities(calls, ledger)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def all(
        self,
        requests: Sequence[Asked],
        key_of: Callable[[RemoteSpec, Asked], str],
        work: Callable[[str, Asked], Awaitable[Result]],
    ) -> list[Result]:
        """Each different request once, as many at a time as the endpoint may be asked; the results in order."""
        keys = [key_of(self.calls.spec, request) for request in requests]
        waiting = iter(dict(zip(keys, requests, strict=True)).items())
        results: dict[str, Result] = {}

        async def take() -> None:
            for key, request in waiting:
                results[key] = await work(key, request)

        async with self.calls.batch():
            await _all_done(self.calls, [take() for _ in range(min(self.calls.spec.concurrency, len(set(keys))))])
        return [results[key] for key in keys]

    async def generate(self, key: str, request: Request) -> Reply | Failed:
        value = await self._kept(key, lambda: self._generated(request))
        if isinstance(value, Failed):
            return value
        if "failed" in value:
            return Failed(*cast(list[str], value["failed"]))
        prompt, reply = cast(list[int], value["tokens"])
        return Reply(str(value["text"]), cast(Finish, value["finish"]), prompt, reply)

    async def choose(self, key: str, request: ChoiceRequest) -> Choice | Failed:
        said = ""
        if request.text:
            await self.abilities.require_text()
        asking = text_ways if request.text else ways
        async for way in asking(request, self.abilities, self.calls.spec.choice_tokens):
            value = await self._kept(digest([key, way.name, way.reply_tokens]), partial(self._chosen, way))
            if isinstance(value, Failed):
                return value
            told = cast("list[float | None] | None", value["logprobs"])
            if told is not None:
                tokens = cast(int, value.get("tokens", 0))
                return Choice(tuple(-math.inf if p is None else p for p in told), way.name, tokens)
            said = str(value["text"])
        return Failed("unclear judgement", f"the model named none of {list(request.continuations)}: {said[:120]!r}")

    async def check_text(self) -> list[None]:
        async with self.calls.batch():
            await self.abilities.require_text()
        await self.ledger.flush()
        return []

    async def close(self) -> None:
        await self.ledger.flush()
        await self.calls.client.close()

    async def _kept(self, key: str, ask: Callable[[], Awaitable[tuple[Value, Tokens, str]]]) -> Value | Failed:
        """What the journal holds, or what is asked now and then held; equal questions wait for one another."""
        turn = self._turns.get(key) or asyncio.Lock()
        self._turns[key] = turn
        async with turn:
            if (kept := self.ledger.get(key)) is not None:
                return kept
            try:
                value, used, served = await ask()
            except Fault as fault:
                return Failed(fault.reason, fault.detail)
            await self.ledger.keep(key, value, used, served)
            return value

    async def _chosen(self, way: Way) -> tuple[Value, Tokens, str]:
        answer, used = await self.calls.ask(way.fields, way.reply_tokens)
        logprobs = way.read(answer)
        told = None if logprobs is None else [None if p == -math.inf else p for p in logprobs]
        return (
            {"way": way.name, "logprobs": told, "text": answer.text, "tokens": used.prompt + used.reply},
            used,
            answer.served,
        )

    async def _generated(self, request: Request) -> tuple[Value, Tokens, str]:
        fields = await self._fields(request)
        answer, used = await self.calls.ask(fields, request.sampling.max_new_tokens)
        return _value_of(answer, request), used, answer.served

    async def _fields(self, request: Request) -> dict[str, object]:
        sampling = request.sampling
        fields: dict[str, object] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if request.text:
            await self.abilities.require_text()
            fields |= {"prompt": request.text, "max_tokens": sampling.max_new_tokens}
        else:
            fields["messages"] = [plain_message(message) for message in request.messages]
            fields[await self.abilities.limit_field()] = sampling.max_new_tokens
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if sampling.temperature > 0 and await self._takes_seed(request):
            fields["seed"] = request.seed & ((1 << _SEED_BITS) - 1)
        if request.tools:
            if not await self.abilities.takes_tools():
                raise Fault("row", "no tools", "the prompt has tools, and the endpoint takes none")
            fields["tools"] = list(request.tools)
        # The pieces of a call come in ways of their own, and a whole reply is not much later.
        if self.calls.spec.stream and not request.tools:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return fields

    async def _takes_seed(self, request: Request) -> bool:
        return await (self.abilities.takes_text_seed() if request.text else self.abilities.takes_seed())


async def _all_done(calls: Calls, work: Sequence[Coroutine[object, object, None]]) -> None:
    """Where something ends the job, those that are under way still take home what they asked for: it is paid for."""
    tasks = [asyncio.create_task(each) for each in work]
    under_way = set(tasks)
    try:
        while under_way and calls.over is None:
            done, under_way = await asyncio.wait(under_way, timeout=_LOOK, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() for task in done):
                break
            await calls.look_for_stop()
        if under_way:
            _, under_way = await asyncio.wait(under_way, timeout=GRACE)
        for task in tasks:
            if task.done():
                task.result()
        if under_way and calls.over is not None:
            raise calls.over
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _value_of(answer: Answer, request: Request) -> Value:
    """A call of a tool that was offered is an answer; any other is none."""
    if (answer.calls or answer.ending == "tool call") and not (request.tools and answer.calls):
        return {"failed": ["tool call", "the model called a tool instead of answering"]}
    if answer.ending == "content filter":
        return {"failed": ["content filter", "the endpoint cut the answer"]}
    finish = "stop" if answer.ending == "tool call" else answer.ending
    return {"text": answer.text, "finish": finish, "tokens": list(answer.used or (0, 0))}


def _reply_key(spec: RemoteSpec, request: Request) -> str:
    """A hash of endpoint, model, conversation, sampling and seed; not of how the endpoint likes to be asked."""
    sampling: Sampling = request.sampling
    asked = [_said_in(request), as_dict(sampling), list(request.tools)]
    return digest(["generate", spec.identity, asked, request.seed])


def _choice_key(spec: RemoteSpec, request: ChoiceRequest) -> str:
    return digest(["choose", spec.identity, _said_in(request), request.continuations])


def _said_in(request: Request | ChoiceRequest) -> object:
    """The conversation, or the text, which no conversation can be taken for."""
    return request.text or [as_dict(message) for message in request.messages]


def _place(spec: RemoteSpec, name: str) -> str:
    return f"model {name!r} at {spec.host}"


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        # Whoever still waits in another thread is told that it is over.
        waiting = asyncio.all_tasks(loop)
        for task in waiting:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
