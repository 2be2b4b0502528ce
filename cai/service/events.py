"""Server-sent events: what a run tells, from any line on, and the list of runs whenever it changes.

A stream ends when nothing more will come; a client that asks again after the end is told so with 204, which stops
browsers from asking on.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi.sse import format_sse_event

from cai.service.listing import Listing, is_over
from cai.service.office import Office
from cai.store.run_folder import EVENTS

POLL_SECONDS = 0.3
PING_SECONDS = 15.0
_PING = b": nothing new\n\n"


class Tail:
    """The lines of a growing file, from behind line `after` on. A line counts once its end is written."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path = path
        self._after = after
        self._number = 0
        self._offset = 0

    def read(self) -> list[tuple[int, str]]:
        """What is new: line numbers, from 1, and lines."""
        try:
            with open(self._path, "rb") as handle:
                handle.seek(self._offset)
                data = handle.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            self._number += 1
            if self._number > self._after:
                found.append((self._number, line.decode("utf-8", "replace")))
        return found


async def run_events(office: Office, run: str, after: int) -> AsyncIterator[bytes]:
    """Each line of the run's `events.jsonl` as an event that is named by its kind and numbered by its line."""
    listing = office.listing
    tail, quiet_since, going_on = Tail(listing.runs / run / EVENTS, after), time.monotonic(), True
    while going_on:
        told = await asyncio.to_thread(listing.one, run)
        over = told is None or is_over(told)
        # Read after asking whether it is over, so that the last lines are not missed.
        lines = await asyncio.to_thread(tail.read)
        for number, line in lines:
            kind = _kind(line)
            if kind:
                yield format_sse_event(data_str=line, event=kind, id=str(number))
        if over:
            state = json.dumps({"state": told["state"], "error": told["error"]} if told else {"state": "gone"})
            yield format_sse_event(data_str=state, event="end")
            return
        if lines:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > PING_SECONDS:
            quiet_since = time.monotonic()
            yield _PING
        going_on = await office.pause(POLL_SECONDS)


async def list_events(office: Office) -> AsyncIterator[bytes]:
    """The whole list at once, and again whenever it is another."""
    last, quiet_since, going_on = None, time.monotonic(), True
    while going_on:
        runs = await asyncio.to_thread(office.listing.all)
        if runs != last:
            last, quiet_since = runs, time.monotonic()
            yield format_sse_event(data_str=json.dumps({"runs": runs, "now": round(time.time(), 3)}), event="runs")
        elif time.monotonic() - quiet_since > PING_SECONDS:
            quiet_since = time.monotonic()
            yield _PING
        going_on = await office.pause(POLL_SECONDS)


def ended_before(listing: Listing, run: str, after: int) -> bool:
    """Whether a client that has seen line `after` has seen everything that will come."""
    told = listing.one(run)
    if told is None or not is_over(told):
        return False
    return not Tail(listing.runs / run / EVENTS, after).read()


def _kind(line: str) -> str:
    """The event's kind; empty for half a line that a kill left behind."""
    try:
        kind = json.loads(line)["kind"]
    except (ValueError, KeyError, TypeError):
        return ""
    return kind if isinstance(kind, str) and kind.isidentifier() else ""
