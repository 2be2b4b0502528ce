"""Calls to one endpoint that end well: admitted by pace and budget, retried within bounds, and what ends the job.

What is asked and what an answer means lives in `model`, `probe` and `choose`.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

from cai.errors import CaiError, EndpointError, InputError, Interrupted
from cai.models.remote.budget import Budget, Tokens, most_tokens
from cai.models.remote.client import CHAT, TEXT, Client
from cai.models.remote.faults import Fault, wait_before
from cai.models.remote.ledger import Ledger
from cai.models.remote.pace import Pace
from cai.models.remote.spec import RemoteSpec
from cai.models.remote.wire import Answer
from cai.records import digest

HELLO = "Say hello."
_GOES_ON = "what was answered is kept, and the same command goes on from there"
GRACE = 20.0
"""Seconds that calls under way may take to end when the job does: they are paid for."""
_NEVER_TAKEN = 8
"""So many requests refused, and none ever taken: the settings are wrong, not the rows."""


class Calls:
    """The state that all calls to one endpoint share; everything here belongs to one event loop."""

    def __init__(
        self,
        spec: RemoteSpec,
        client: Client,
        ledger: Ledger,
        budget: Budget,
        place: str,
        stop: Callable[[], bool],
        known: bool = False,
    ) -> None:
        """`known`: the endpoint has answered to these settings in an earlier start."""
        self.spec = spec
        self.client = client
        self.budget = budget
        self.place = place
        self.trial: dict[str, object] = {"messages": [{"role": "user", "content": HELLO}], "max_tokens": 1}
        """The smallest request, which tells whether the endpoint lives."""
        self._ledger = ledger
        self._stop_wanted = stop
        self._known = known
        self._pace = Pace(spec.concurrency, spec.patience_seconds)
        self._changed = asyncio.Condition()
        self._text_answered = False
        self._first_call: float | None = None
        self._refused = 0
        self._batches = 0
        self.over: CaiError | None = None
        """What ended the job, until the next one begins."""

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Around the calls of one job: what ends one of several at a time ends them all, and no new call begins."""
        if self._batches == 0:
            self.over = None
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1

    async def look_for_stop(self) -> None:
        """Ends the job if that is wished for: no new call begins."""
        if self.over is None and self._stop_wanted():
            self.over = Interrupted(f"{self.place}: stopped; {_GOES_ON}")
            async with self._changed:
                self._changed.notify_all()

    async def ask(self, fields: Mapping[str, object], reply_tokens: int) -> tuple[Answer, Tokens]:
        """The answer to a request of these fields, and what it used. With a `prompt` in place of `messages` it is
        what comes after that text.

        Raises `Fault` where this one request came to nothing, and a `CaiError` where every request would.
        """
        body, most = self._rendered(fields, reply_tokens)
        key, tries, path = digest(body.decode()), 0, _path_of(fields)
        while True:
            while (seconds := await self._admitted(most)) is None:
                await self._try_whether_it_lives()
            try:
                return await self._made(body, most, seconds, path)
            except Fault as fault:
                if fault.kind == "row":
                    raise
                # An endpoint that is down takes no row with it.
                tries += not self._pace.broken
                if tries >= self.spec.tries:
                    raise Fault("row", fault.reason, f"{fault.detail}, after {tries} tries") from None
            await asyncio.sleep(wait_before(max(tries, 1), key))

    async def _try_whether_it_lives(self) -> None:
        """One small call in place of all others: a row that the endpoint cannot digest must not pass for its death."""
        body, most = self._rendered(self.trial, 1)
        seconds = await self._admitted(most, trial=True)
        if seconds is not None:
            with suppress(Fault):
                _, used = await self._made(body, most, seconds, _path_of(self.trial))
                await self._ledger.lose("trial", used)

    def _rendered(self, fields: Mapping[str, object], reply_tokens: int) -> tuple[bytes, Tokens]:
        """The body of a request, and the most that it can use."""
        text = json.dumps({"model": self.spec.model, **fields, **self.spec.extra}, ensure_ascii=False)
        body, messages = text.encode("utf-8", "replace"), fields.get("messages", [])
        assert isinstance(messages, list), messages
        return body, most_tokens(len(body), len(messages), reply_tokens)

    async def _made(self, body: bytes, most: Tokens, seconds: float, path: str) -> tuple[Answer, Tokens]:
        """One call that was admitted. Its place in pace and budget is given back whatever happens."""
        began, used = time.monotonic(), Tokens()
        try:
            answer = await self._posted(body, seconds, path)
            used = most if answer.used is None else Tokens(*answer.used)
            self._check_name(answer)
        except Fault as fault:
            used = Tokens(*fault.used) if fault.used else used
            try:
                self._note(fault, began)
            finally:
                if used.all:
                    await self._ledger.lose(fault.reason, used)
            raise
        except BaseException:
            self._pace.dropped()
            raise
        else:
            self._pace.answered()
            return answer, used
        finally:
            self.budget.settle(most, used)
            async with self._changed:
                self._changed.notify_all()

    async def _posted(self, body: bytes, seconds: float, path: str) -> Answer:
        """Until a text was answered once, 'not found' says that this endpoint only chats: the request's misfortune, not
        the endpoint's end."""
        try:
            answer = await self.client.post(body, seconds, path)
        except Fault as fault:
            if path == TEXT and not self._text_answered and fault.reason == "not found":
                raise Fault("row", fault.reason, fault.detail, fault.remedy) from None
            raise
        self._text_answered |= path == TEXT
        return answer

    async def _admitted(self, most: Tokens, trial: bool = False) -> float | None:
        """Waits until this call may be made; the seconds that it may take. None where a trial is due first, or was."""
        async with self._changed:
            while True:
                if self.over is not None:
                    raise self.over
                if self._pace.broken != trial:
                    return None
                now = time.monotonic()
                over = self.budget.exceeded_by(most)
                left = self._seconds_left(now)
                if self._pace.in_flight == 0:
                    # Only now is nothing under way that is paid for and would be lost.
                    self._refuse_what_is_over(over, left)
                wait = None if over or left <= 0 else self._pace.wait(now)
                if wait == 0:
                    self._pace.begin()
                    self.budget.reserve(most)
                    self._first_call = now if self._first_call is None else self._first_call
                    return min(self.spec.call_seconds, left + GRACE)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait is None else min(wait, left)):
                        await self._changed.wait()

    def _seconds_left(self, now: float) -> float:
        if self.spec.limits.seconds is None or self._first_call is None:
            return self.spec.limits.seconds or float("inf")
        return self.spec.limits.seconds - (now - self._first_call)

    def _refuse_what_is_over(self, over: str, left: float) -> None:
        if over:
            self._end(EndpointError(self.place, over, f"raise it under limits; {_GOES_ON}"))
        if left <= 0:
            problem = f"the limit of {self.spec.limits.seconds:g} seconds is reached"
            self._end(EndpointError(self.place, problem, f"raise it under limits; {_GOES_ON}"))

    def _check_name(self, answer: Answer) -> None:
        """A dated name (`small-2026-01-31`) or the last part of a path is the same model; `small-mini` is another."""
        asked, served = self.spec.model, answer.served
        expected = {asked, asked.rpartition("/")[2], self.spec.served_as}
        dated = re.fullmatch(rf"{re.escape(asked.removesuffix('-latest'))}-\d[\d-]*", served)
        if served and served not in expected and not dated:
            remedy = f"if that is the same model, set served_as: {served}"
            raise Fault("setup", "wrong model", f"{served!r} answered instead of {asked!r}", remedy, used=answer.used)

    def _note(self, fault: Fault, began: float) -> None:
        """What a fault says about the endpoint; raises what ends the job."""
        now = time.monotonic()
        if fault.kind == "row":
            self._pace.refused()
            self._refused += 1
            if not self._pace.ever_answered and self._refused >= _NEVER_TAKEN:
                self._refuse(f"it refused every request, at last with {fault}", "check model and extra")
            return
        self._pace.failed(began, now, fault.busy, fault.wait)
        never = not self._pace.ever_answered
        ends = {"stop": True, "absent": never, "setup": never and not self._known}
        if ends.get(fault.kind, False):
            self._refuse(str(fault), fault.remedy)
        if fault.wait is not None and fault.wait > self.spec.patience_seconds:
            problem = f"it asks to wait {fault.wait:.0f} s ({fault})"
            self._end(EndpointError(self.place, problem, f"wait, or raise patience_seconds; {_GOES_ON}"))
        if self._pace.dead(now):
            problem = f"it gave no answer for {self.spec.patience_seconds:g} s, at last {fault}"
            remedy = fault.remedy or "see that the endpoint is up"
            self._end(EndpointError(self.place, problem, f"{remedy}; {_GOES_ON}"))

    def _refuse(self, problem: str, remedy: str) -> NoReturn:
        self._end(InputError(self.place, problem, None, f"{remedy}; {_GOES_ON}"))

    def _end(self, error: CaiError) -> NoReturn:
        self.over = self.over or error
        raise error from None


def _path_of(fields: Mapping[str, object]) -> str:
    return TEXT if "prompt" in fields else CHAT
