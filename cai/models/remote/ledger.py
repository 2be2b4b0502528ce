"""Every paid reply, on the disk before anyone uses it: what was answered once is never asked again.

One journal with one line for each reply, found by a hash of what was asked. Replies that arrive together are committed
together, so many calls at a time share one wait for the disk. What a line's value means is the caller's business.
"""

import asyncio
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cai.errors import DamagedFile
from cai.files import folder_lock
from cai.journal import Journal, read_lines
from cai.models.remote.budget import Tokens
from cai.records import canonical

STREAM = "replies"
_LOST = "lost"
Value = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Waiting:
    key: str
    line: str
    done: "asyncio.Future[None]"


class Ledger:
    """Owns a folder and its journal. `keep` belongs to one event loop; the rest to any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / f"{STREAM}.jsonl"
        self._held = ExitStack()
        self._held.enter_context(folder_lock(folder))
        try:
            self._journal = self._held.enter_context(Journal(folder, (STREAM,)))
            self._places: dict[str, tuple[int, int]] = {}
            self.used = Tokens()
            self.served: set[str] = set()
            self._end = 0
            for number, line in enumerate(read_lines(self._path), 1):
                self._note(*_parsed(line, f"{self._path}:{number}"), len(line.encode()))
            self._file = os.open(self._path, os.O_RDONLY)
        except BaseException:
            self._held.close()
            raise
        self._held.callback(os.close, self._file)
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Value | None:
        """What was kept under this key."""
        if key not in self._places:
            return None
        start, length = self._places[key]
        line = os.pread(self._file, length, start).decode()
        return _parsed(line, str(self._path))[1]

    async def keep(self, key: str, value: Value, used: Tokens, served: str = "") -> None:
        """Returns when the value is on the disk; what is cancelled in the meantime is written all the same."""
        line = canonical(
            {"key": key, "value": value, "prompt_tokens": used.prompt, "reply_tokens": used.reply, "served": served}
        )
        waiting = _Waiting(key, line, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        await asyncio.shield(waiting.done)

    async def lose(self, reason: str, used: Tokens) -> None:
        """Tokens that were paid for without a reply that can be used."""
        await self.keep(_LOST, {"lost": reason}, used)

    async def flush(self) -> None:
        if self._writer is not None:
            await self._writer

    def close(self) -> None:
        self._held.close()

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            lines = {STREAM: [waiting.line for waiting in batch]}
            # Whatever goes wrong is for those who wait; an error that stayed here would leave them waiting.
            (error,) = await asyncio.gather(asyncio.to_thread(self._journal.commit, lines), return_exceptions=True)
            for waiting in batch:
                if error is not None:
                    waiting.done.set_exception(error)
                    waiting.done.exception()  # Read here, because whoever waited may be gone.
                    continue
                self._note(*_parsed(waiting.line, str(self._path)), len(waiting.line.encode()))
                waiting.done.set_result(None)
        self._writer = None

    def _note(self, key: str, _: Value, used: Tokens, served: str, length: int) -> None:
        self._places.setdefault(key, (self._end, length))
        self._end += length + 1
        self.used += used
        if served:
            self.served.add(served)


def _parsed(line: str, place: str) -> tuple[str, Value, Tokens, str]:
    try:
        entry = json.loads(line)
        used = Tokens(int(entry["prompt_tokens"]), int(entry["reply_tokens"]))
        key, value, served = entry["key"], entry["value"], entry["served"]
    except (ValueError, KeyError, TypeError) as error:
        remedy = "restore it from a copy, or remove the folder; then its replies are asked and paid for again"
        raise DamagedFile(place, f"is no reply: {error}", None, remedy) from None
    assert isinstance(key, str) and isinstance(value, dict) and isinstance(served, str), line
    return key, value, used, served
