"""The queue of runs: SQLite, so that a run that was accepted is there after a crash.

A job goes queued → running → done | failed | cancelled, or back to queued when whoever ran it is gone; nothing else is
possible, in the database's own words. Each claim draws a new fencing token, and only its bearer may say how the job
ended. One process opens the file, because SQLite before 3.51.3 can damage a log that two write. What a job does lives
in `worker`.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["queued", "running", "done", "failed", "cancelled"]
End = Literal["done", "failed", "cancelled"]
MAX_DEATHS = 3
"""A job whose worker died this often is given up: it is the job that kills."""


class Busy(Exception):
    """A run of that name is waiting or running already."""


@dataclass(frozen=True, slots=True)
class Job:
    id: int
    run: str
    pipeline: str
    """The pipeline file's text."""
    state: State
    token: int
    """How often it was claimed; the number of the claim that counts."""
    deaths: int
    """How often its worker died under it."""
    error: str
    created: float
    started: float | None
    finished: float | None


def _first_tables(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE jobs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            run TEXT NOT NULL,
            pipeline TEXT NOT NULL,
            state TEXT NOT NULL DEFAULT 'queued'
                CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            token INTEGER NOT NULL DEFAULT 0,
            deaths INTEGER NOT NULL DEFAULT 0,
            error TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL,
            started REAL,
            finished REAL
        ) STRICT"""
    )
    connection.execute("CREATE UNIQUE INDEX one_at_a_time ON jobs (run) WHERE state IN ('queued', 'running')")
    connection.execute("CREATE INDEX by_state ON jobs (state, id)")
    connection.execute(
        """CREATE TRIGGER legal_changes BEFORE UPDATE OF state ON jobs
        WHEN NOT (
            (OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled'))
            OR (OLD.state = 'running' AND NEW.state IN ('queued', 'done', 'failed', 'cancelled'))
        )
        BEGIN SELECT RAISE(ABORT, 'a job cannot change like that'); END"""
    )


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first_tables,)


class Queue:
    """The jobs of one runs folder."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # What was answered 202 is on the disk, not on its way there.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._migrate()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, run: str, pipeline: str) -> Job:
        with self._change() as connection:
            try:
                cursor = connection.execute(
                    "INSERT INTO jobs (run, pipeline, created) VALUES (?, ?, ?)", (run, pipeline, self._clock())
                )
            except sqlite3.IntegrityError as error:
                raise Busy(run) from error
            return _job(connection.execute("SELECT * FROM jobs WHERE id = ?", (cursor.lastrowid,)).fetchone())

    def claim(self) -> Job | None:
        """The oldest waiting job, now running, under a token that no one had before."""
        with self._change() as connection:
            row = connection.execute(
                """UPDATE jobs SET state = 'running', token = token + 1, started = ?
                WHERE id = (SELECT id FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1) RETURNING *""",
                (self._clock(),),
            ).fetchone()
            return _job(row) if row else None

    def finish(self, job: int, token: int, state: End, error: str = "") -> bool:
        """Says how a job ended; False, and nothing changed, where the token is not the one that counts."""
        return self._set(job, token, state, error)

    def give_back(self, job: int, token: int) -> bool:
        """Back to the queue, to go on where it was: whoever ran it has stopped in good order."""
        return self._set(job, token, "queued")

    def died(self, job: int, token: int) -> bool:
        """Whoever ran it is gone: back to the queue, or given up where that happened too often."""
        with self._change() as connection:
            row = connection.execute(
                "UPDATE jobs SET deaths = deaths + 1 WHERE id = ? AND token = ? AND state = 'running' RETURNING deaths",
                (job, token),
            ).fetchone()
        if row is None:
            return False
        if row[0] >= MAX_DEATHS:
            return self.finish(job, token, "failed", f"the worker died {row[0]} times while it ran this")
        return self.give_back(job, token)

    def cancel(self, run: str) -> Job | None:
        """Takes a waiting job out of the queue; None where none waits."""
        with self._change() as connection:
            row = connection.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE run = ? AND state = 'queued' RETURNING *",
                (self._clock(), run),
            ).fetchone()
            return _job(row) if row else None

    def recover(self) -> None:
        """After a crash nobody runs anything: what was running waits again, or is given up."""
        for job in self._select("state = 'running'"):
            self.died(job.id, job.token)

    def latest(self) -> dict[str, Job]:
        """The last job of each run."""
        return {job.run: job for job in self._select("id IN (SELECT max(id) FROM jobs GROUP BY run)")}

    def find(self, run: str) -> Job | None:
        """The last job of a run."""
        found = self._select("id = (SELECT max(id) FROM jobs WHERE run = ?)", run)
        return found[0] if found else None

    def _set(self, job: int, token: int, state: State, error: str = "") -> bool:
        finished = None if state == "queued" else self._clock()
        with self._change() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = ?, error = ?, finished = ? WHERE id = ? AND token = ? AND state = 'running'",
                (state, error, finished, job, token),
            )
            return changed.rowcount == 1

    def _select(self, where: str, *values: object) -> list[Job]:
        with self._lock:
            rows = self._connection.execute(f"SELECT * FROM jobs WHERE {where} ORDER BY id", values).fetchall()  # noqa: S608
        return [_job(row) for row in rows]

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it ends."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _migrate(self) -> None:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            with self._change() as connection:
                migration(connection)
                connection.execute(f"PRAGMA user_version = {number}")


def _job(row: tuple[object, ...]) -> Job:
    # The table is strict and its columns stand in this order, so the types are the database's promise.
    return Job(*row)  # type: ignore[arg-type]
