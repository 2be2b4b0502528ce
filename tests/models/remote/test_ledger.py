"""Replies on the disk before they are used, found again after any end."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import CaiError, DamagedFile, FolderInUse
from cai.models.remote.budget import Tokens
from cai.models.remote.ledger import STREAM, Ledger


async def keep_many(ledger: Ledger, keys: list[str]) -> None:
    await asyncio.gather(*(ledger.keep(key, {"text": f"of {key}"}, Tokens(2, 1), "m") for key in keys))


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(work)


def test_what_was_kept_is_found_now_and_later(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run(keep_many(ledger, ["a", "b", "ü"]))
    for _ in range(2):
        assert len(ledger) == 3
        assert ledger.get("ü") == {"text": "of ü"}
        assert ledger.get("c") is None
        assert ledger.used == Tokens(6, 3)
        assert ledger.served == {"m"}
        ledger.close()
        ledger = Ledger(tmp_path)
    ledger.close()


def test_replies_that_come_together_share_a_commit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run(keep_many(ledger, [str(i) for i in range(100)]))
    ledger.close()
    assert len((tmp_path / "commits.jsonl").read_text().splitlines()) < 10


def test_a_reply_is_on_the_disk_when_keep_returns(tmp_path: Path) -> None:
    async def look(ledger: Ledger) -> None:
        await ledger.keep("a", {"text": "hello"}, Tokens(), "")
        assert '"hello"' in (tmp_path / f"{STREAM}.jsonl").read_text()

    ledger = Ledger(tmp_path)
    run(look(ledger))
    ledger.close()


def test_a_reply_whose_asker_is_gone_is_kept(tmp_path: Path) -> None:
    async def leave(ledger: Ledger) -> None:
        task = asyncio.create_task(ledger.keep("a", {"text": "hello"}, Tokens(), ""))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.flush()

    ledger = Ledger(tmp_path)
    run(leave(ledger))
    assert ledger.get("a") == {"text": "hello"}
    ledger.close()


def test_a_full_disk_is_told_to_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)

    def full(*_: object) -> None:
        raise CaiError("journal: cannot be written (No space left on device)")

    monkeypatch.setattr(ledger._journal, "commit", full)
    with pytest.raises(CaiError, match="No space left on device"):
        run(keep_many(ledger, ["a", "b"]))
    assert ledger.get("a") is None
    monkeypatch.undo()
    run(keep_many(ledger, ["a"]))
    assert ledger.get("a") == {"text": "of a"}
    ledger.close()


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(FolderInUse):
        Ledger(tmp_path)
    ledger.close()
    Ledger(tmp_path).close()


@settings(max_examples=25)
@given(st.data())
def test_any_end_leaves_the_replies_of_the_whole_commits(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The files cut as a crash could: the commits at any byte, the replies anywhere from the last commit on."""
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder)
    for i in range(4):
        run(keep_many(ledger, [f"{i}a", f"{i}b"]))
    ledger.close()
    commits = (folder / "commits.jsonl").read_bytes()
    kept = commits[: data.draw(st.integers(0, len(commits)))]
    whole = kept.count(b"\n")
    replies = (folder / f"{STREAM}.jsonl").read_bytes()
    end = json.loads(kept.splitlines()[whole - 1])["ends"][STREAM] if whole else 0
    (folder / "commits.jsonl").write_bytes(kept)
    (folder / f"{STREAM}.jsonl").write_bytes(replies[: data.draw(st.integers(end, len(replies)))])
    ledger = Ledger(folder)
    assert len(ledger) == 2 * whole
    assert ledger.used == Tokens(4 * whole, 2 * whole)
    for i in range(4):
        assert ledger.get(f"{i}b") == ({"text": f"of {i}b"} if i < whole else None)
    run(keep_many(ledger, ["new"]))
    assert ledger.get("new") == {"text": "of new"}
    ledger.close()


def test_a_changed_reply_is_an_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    run(keep_many(ledger, ["a"]))
    ledger.close()
    path = tmp_path / f"{STREAM}.jsonl"
    path.write_text(path.read_text().replace("of a", "of b"))
    with pytest.raises(DamagedFile, match=r"replies\.jsonl"):
        Ledger(tmp_path)
