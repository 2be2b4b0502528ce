"""The service's side of the worker: keeps one alive, hands it one run at a time, and carries conversations to and fro.

This is the only place where jobs are claimed and ended. What the worker does with an order lives in `worker`.
"""

import asyncio
import itertools
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

from cai.files import write_atomic
from cai.models.protocol import Sampling
from cai.records import Message
from cai.service.jobs import Job, Queue
from cai.service.messages import (
    ChatEnded,
    ChatNews,
    ChatOrder,
    ChatRefused,
    ForgetOrder,
    Order,
    Ready,
    RunEnded,
    RunOrder,
    StopOrder,
    read_news,
    to_wire,
)

MAX_CHATS = 16
"""Conversations that may wait for the worker; more are told to come back."""
STOP_SECONDS = 25.0
LINE_LIMIT = 16 * 1024 * 1024


class Overloaded(Exception):
    """There is no room for this conversation now."""


class Device:
    """Owns the worker process of one runs folder."""

    def __init__(self, runs: Path, home: Path, queue: Queue) -> None:
        self._runs, self._home, self._queue = runs, home, queue
        self._process: Process | None = None
        self._ready = False
        self._job: Job | None = None
        self._cancelled: set[int] = set()
        self._chats: dict[int, asyncio.Queue[ChatNews]] = {}
        self._numbers = itertools.count(1)
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._queue.recover)
        self._tasks = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._hand_out())]

    async def close(self) -> None:
        """Let the worker finish the step in hand; what it was doing goes back to the queue."""
        self._closing.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        _, alive = await asyncio.wait(self._tasks[:1], timeout=STOP_SECONDS)
        if alive and self._process is not None and self._process.returncode is None:
            self._process.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._job is not None:
            await asyncio.to_thread(self._queue.give_back, self._job.id, self._job.token)

    def wake(self) -> None:
        """There may be a job to claim."""
        self._wake.set()

    def wake_from_thread(self) -> None:
        assert self._loop is not None, "not started"
        self._loop.call_soon_threadsafe(self._wake.set)

    async def cancel(self, run: str) -> bool:
        """Take a run out of the queue, or stop it after the step in hand; False where there is nothing to stop."""
        if await asyncio.to_thread(self._queue.cancel, run):
            return True
        job = self._job
        if job is None or job.run != run:
            return False
        self._cancelled.add(job.id)
        await self._order(StopOrder(job.id))
        return True

    async def chat(
        self, run: str, messages: Sequence[Message], sampling: Sampling, seeds: Sequence[int], stream: bool
    ) -> AsyncGenerator[ChatNews, None]:
        """What comes of a conversation, to its end or refusal. Whoever stops listening stops the work."""
        if len(self._chats) >= MAX_CHATS:
            raise Overloaded
        number = next(self._numbers)
        news: asyncio.Queue[ChatNews] = asyncio.Queue()
        self._chats[number] = news
        ended = False
        try:
            order = ChatOrder(number, run, tuple(messages), sampling, tuple(seeds), stream)
            if not await self._order(order):
                raise Overloaded
            while not ended:
                said = await news.get()
                ended = isinstance(said, ChatEnded | ChatRefused)
                yield said
        finally:
            del self._chats[number]
            if not ended:
                await self._order(ForgetOrder(number))

    async def _keep_alive(self) -> None:
        while not self._closing.is_set():
            started = time.monotonic()
            await self._live()
            # A worker that dies at once would otherwise be started a thousand times a minute.
            if time.monotonic() - started < 5:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), 1)

    async def _live(self) -> None:
        """One worker's life, from its start to its end."""
        self._home.mkdir(parents=True, exist_ok=True)
        with open(self._home / "worker.log", "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cai.service.worker",
                str(self._home / "device"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_LIMIT,
                # Ctrl-C in a terminal goes to the whole group; the worker is to hear of it from here, in good order.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        if self._closing.is_set():
            self._process.stdin.close()
        while line := await self._process.stdout.readline():
            await self._hear(line)
        await self._process.wait()
        self._ready = False
        for number, news in self._chats.items():
            news.put_nowait(ChatRefused(number, "busy", "the worker ended; try again"))
        if self._job is not None and not self._closing.is_set():
            job, self._job = self._job, None
            await asyncio.to_thread(self._queue.died, job.id, job.token)

    async def _hear(self, line: bytes) -> None:
        said = read_news(line)
        match said:
            case Ready():
                self._ready = True
                self.wake()
            case RunEnded():
                await self._end(said)
            case _:
                if said.id in self._chats:
                    self._chats[said.id].put_nowait(said)

    async def _end(self, ended: RunEnded) -> None:
        if ended.state == "stopped" and ended.job not in self._cancelled:
            await asyncio.to_thread(self._queue.give_back, ended.job, ended.token)
        else:
            state = "cancelled" if ended.state == "stopped" else ended.state
            await asyncio.to_thread(self._queue.finish, ended.job, ended.token, state, ended.error)
        self._cancelled.discard(ended.job)
        self._job = None
        self.wake()

    async def _hand_out(self) -> None:
        """Claim the next job whenever there may be one and the worker is free."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._ready or self._job is not None or self._closing.is_set():
                continue
            job = await asyncio.to_thread(self._queue.claim)
            if job is None:
                continue
            self._job = job
            pipeline = pipeline_file(self._home, job.run)
            await asyncio.to_thread(write_atomic, pipeline, job.pipeline)
            folder = self._runs / job.run
            await self._order(RunOrder(job.id, job.token, job.run, str(pipeline), str(folder)))

    async def _order(self, order: Order) -> bool:
        """Send an order; False where no worker is there to take it."""
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None or process.stdin.is_closing():
            return False
        with suppress(ConnectionError):
            process.stdin.write(to_wire(order))
            await process.stdin.drain()
            return True
        return False


def pipeline_file(home: Path, run: str) -> Path:
    """Where the pipeline of a run stands, as `cai run` would take it."""
    return home / "pipelines" / f"{run}.yaml"
