"""The queue: what was accepted survives, only legal changes happen, and only the last bearer of a token is heard."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cai.service.jobs import MAX_DEATHS, MIGRATIONS, Busy, Queue


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue.sqlite3")


def test_jobs_are_claimed_in_the_order_they_came(queue: Queue) -> None:
    for name in ("b", "a", "c"):
        queue.add(name, "text")
    claimed = [queue.claim() for _ in range(4)]
    assert [job.run if job else None for job in claimed] == ["b", "a", "c", None]


def test_a_run_that_waits_or_runs_is_not_queued_twice(queue: Queue) -> None:
    queue.add("a", "text")
    with pytest.raises(Busy):
        queue.add("a", "text")
    job = queue.claim()
    assert job
    with pytest.raises(Busy):
        queue.add("a", "text")
    queue.finish(job.id, job.token, "done")
    assert queue.add("a", "text").state == "queued"


def test_only_the_bearer_of_the_last_token_ends_a_job(queue: Queue) -> None:
    queue.add("a", "text")
    first = queue.claim()
    assert first
    queue.died(first.id, first.token)
    second = queue.claim()
    assert second
    assert second.token > first.token
    assert not queue.finish(first.id, first.token, "done")
    assert queue.find("a").state == "running"
    assert queue.finish(second.id, second.token, "failed", "why")
    assert (queue.find("a").state, queue.find("a").error) == ("failed", "why")
    assert not queue.finish(second.id, second.token, "done"), "an end is the end"


def test_a_job_that_kills_its_workers_is_given_up(queue: Queue) -> None:
    queue.add("a", "text")
    for _ in range(MAX_DEATHS):
        job = queue.claim()
        assert job
        queue.died(job.id, job.token)
    assert queue.claim() is None
    assert "died 3 times" in queue.find("a").error


def test_stopping_in_good_order_is_no_death(queue: Queue) -> None:
    queue.add("a", "text")
    for _ in range(MAX_DEATHS + 2):
        job = queue.claim()
        assert job
        assert queue.give_back(job.id, job.token)
    assert queue.find("a").state == "queued"


def test_what_ran_when_the_service_died_waits_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q")
    queue.add("a", "text")
    queue.claim()
    queue.close()
    again = Queue(tmp_path / "q")
    again.recover()
    assert again.claim().run == "a"


def test_an_accepted_job_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from cai.service.jobs import Queue\n"
        "Queue(Path(sys.argv[1])).add('kept', 'text'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "q")], check=False, timeout=60)
    assert done.returncode == -9
    assert Queue(tmp_path / "q").find("kept").state == "queued"


@pytest.mark.parametrize(
    ("before", "after"),
    [("queued", "done"), ("queued", "failed"), ("done", "queued"), ("done", "running"), ("failed", "done"),
     ("cancelled", "running"), ("cancelled", "queued"), ("failed", "running"), ("queued", "nonsense")],
)  # fmt: skip
def test_the_database_itself_refuses_an_illegal_change(tmp_path: Path, before: str, after: str) -> None:
    Queue(tmp_path / "q").close()
    connection = sqlite3.connect(tmp_path / "q")
    connection.execute("INSERT INTO jobs (run, pipeline, created, state) VALUES ('a', '', 0, ?)", (before,))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE jobs SET state = ?", (after,))


def test_the_migrations_give_this_schema(tmp_path: Path) -> None:
    Queue(tmp_path / "q").close()
    connection = sqlite3.connect(tmp_path / "q")
    columns = [row[1:6] for row in connection.execute("PRAGMA table_info(jobs)")]
    assert columns == [
        ("id", "INTEGER", 0, None, 1),
        ("run", "TEXT", 1, None, 0),
        ("pipeline", "TEXT", 1, None, 0),
        ("state", "TEXT", 1, "'queued'", 0),
        ("token", "INTEGER", 1, "0", 0),
        ("deaths", "INTEGER", 1, "0", 0),
        ("error", "TEXT", 1, "''", 0),
        ("created", "REAL", 1, None, 0),
        ("started", "REAL", 0, None, 0),
        ("finished", "REAL", 0, None, 0),
    ]
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    assert names == {"jobs", "one_at_a_time", "by_state", "legal_changes"}
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


class QueueMachine(RuleBasedStateMachine):
    """Any order of calls leaves the queue as a plain list of jobs would be."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(Path(":memory:"))
        self.jobs: dict[int, tuple[str, str]] = {}
        self.claims: list[tuple[int, int]] = []

    def teardown(self) -> None:
        self.queue.close()

    @rule(run=st.sampled_from("ab"))
    def add(self, run: str) -> None:
        active = any(name == run and state in ("queued", "running") for name, state in self.jobs.values())
        try:
            job = self.queue.add(run, "")
        except Busy:
            assert active
        else:
            assert not active
            self.jobs[job.id] = (run, "queued")

    @rule()
    def claim(self) -> None:
        waiting = [number for number, (_, state) in sorted(self.jobs.items()) if state == "queued"]
        job = self.queue.claim()
        assert (job.id if job else None) == (waiting[0] if waiting else None)
        if job:
            self.jobs[job.id] = (job.run, "running")
            assert (job.id, job.token) not in self.claims, "a token is given once"
            self.claims.append((job.id, job.token))

    @rule(which=st.integers(0, 20), state=st.sampled_from(["done", "failed", "cancelled", "queued"]))
    def end(self, which: int, state: str) -> None:
        if not self.claims:
            return
        number, token = self.claims[which % len(self.claims)]
        newest = max(claim for claim in self.claims if claim[0] == number) == (number, token)
        allowed = newest and self.jobs[number][1] == "running"
        if state == "queued":
            assert self.queue.give_back(number, token) == allowed
        else:
            assert self.queue.finish(number, token, state) == allowed
        if allowed:
            self.jobs[number] = (self.jobs[number][0], state)

    @rule(run=st.sampled_from("ab"))
    def cancel(self, run: str) -> None:
        waiting = [n for n, found in self.jobs.items() if found == (run, "queued")]
        assert bool(self.queue.cancel(run)) == bool(waiting)
        for number in waiting:
            self.jobs[number] = (run, "cancelled")

    @invariant()
    def the_last_job_of_each_run_is_told(self) -> None:
        last = {run: state for _, (run, state) in sorted(self.jobs.items())}
        assert {run: job.state for run, job in self.queue.latest().items()} == last


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
