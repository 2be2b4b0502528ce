"""A journal loses at most what was never committed, and damage is an error, never a shorter file."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import DamagedFile, InputError
from cai.journal import COMMITS, Journal, read_commits, read_lines

CHUNKS = [
    ({"records": ['{"id":"a"}', '{"id":"ä"}']}, {"wave": 1}),
    ({"records": [], "rejects": ['{"id":"r"}']}, {}),
    ({"records": ['{"id":"b"}'], "rejects": []}, {"wave": 2, "out_of_memory": [8, 4]}),
]


def written(folder: Path, chunks: int = len(CHUNKS)) -> dict[str, bytes]:
    with Journal(folder) as journal:
        for lines, note in CHUNKS[:chunks]:
            journal.commit(lines, note)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files as they must be after 0, 1, 2 and 3 chunks."""
    return [written(tmp_path_factory.mktemp("whole"), count) for count in range(len(CHUNKS) + 1)]


def reopened(folder: Path) -> dict[str, bytes]:
    Journal(folder).close()
    return contents(folder)


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    written(tmp_path)
    with Journal(tmp_path) as journal:
        assert journal.chunks == 3
        assert journal.notes == [note for _, note in CHUNKS]
    assert list(read_lines(tmp_path / "records.jsonl")) == ['{"id":"a"}', '{"id":"ä"}', '{"id":"b"}']
    assert list(read_lines(tmp_path / "rejects.jsonl")) == ['{"id":"r"}']


def test_a_journal_written_in_several_sittings_is_the_same_file(
    tmp_path: Path, prefixes: list[dict[str, bytes]]
) -> None:
    for lines, note in CHUNKS:
        with Journal(tmp_path) as journal:
            journal.commit(lines, note)
    assert contents(tmp_path) == prefixes[-1]


def test_a_line_may_hold_any_character_but_a_line_end(tmp_path: Path) -> None:
    lines = ["\u2028\u0085\x0b\x0c\r", "", "日本"]
    with Journal(tmp_path, ["records"]) as journal:
        journal.commit({"records": lines})
        with pytest.raises(AssertionError, match="one line"):
            journal.commit({"records": ["two\nlines"]})
        with pytest.raises(AssertionError, match="not all among"):
            journal.commit({"other": ["x"]})
    assert list(read_lines(tmp_path / "records.jsonl")) == lines
    assert read_commits(tmp_path)[0][-1].ends == {"records": len("\n".join([*lines, ""]).encode())}


@given(data=st.data())
def test_cut_anywhere_a_commit_file_gives_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, prefixes: list[dict[str, bytes]], data: st.DataObject
) -> None:
    whole = prefixes[-1]
    cut = data.draw(st.integers(0, len(whole[COMMITS])))
    folder = tmp_path_factory.mktemp("cut")
    put(folder, {**whole, COMMITS: whole[COMMITS][:cut]})
    assert reopened(folder) == prefixes[whole[COMMITS][:cut].count(b"\n")]


@given(data=st.data())
def test_a_killed_commit_leaves_the_chunks_before_it(
    tmp_path_factory: pytest.TempPathFactory, prefixes: list[dict[str, bytes]], data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, len(CHUNKS) - 1))
    before, after = prefixes[done], prefixes[done + 1]
    torn = {n: after[n][: data.draw(st.integers(len(before[n]), len(after[n])))] for n in after if n != COMMITS}
    folder = tmp_path_factory.mktemp("killed")
    put(folder, {**torn, COMMITS: before[COMMITS]})
    assert reopened(folder) == before
    with Journal(folder) as journal:
        for lines, note in CHUNKS[done:]:
            journal.commit(lines, note)
    assert contents(folder) == prefixes[-1]


@given(data=st.data())
def test_a_flipped_bit_is_an_error_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, prefixes: list[dict[str, bytes]], data: st.DataObject
) -> None:
    whole = prefixes[-1]
    name = data.draw(st.sampled_from(sorted(whole)))
    bit = data.draw(st.integers(0, len(whole[name]) * 8 - 1))
    flipped = bytearray(whole[name])
    flipped[bit // 8] ^= 1 << bit % 8
    folder = tmp_path_factory.mktemp("flipped")
    put(folder, {**whole, name: bytes(flipped)})
    with pytest.raises(DamagedFile, match=f"{name}: is damaged (at|between) byte"):
        Journal(folder)
    assert contents(folder) == {**whole, name: bytes(flipped)}


@given(data=st.data())
def test_a_stream_shorter_than_its_commits_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, prefixes: list[dict[str, bytes]], data: st.DataObject
) -> None:
    whole = prefixes[-1]
    name = data.draw(st.sampled_from(["records.jsonl", "rejects.jsonl"]))
    cut = data.draw(st.integers(0, len(whole[name]) - 1))
    folder = tmp_path_factory.mktemp("short")
    put(folder, {**whole, name: whole[name][:cut]})
    with pytest.raises(DamagedFile, match=f"{name}: is cut at byte {cut} of"):
        Journal(folder)


@pytest.mark.parametrize(("gone", "told"), [(COMMITS, "is missing beside"), ("records.jsonl", "is missing")])
def test_a_missing_file_is_an_error(tmp_path: Path, gone: str, told: str) -> None:
    written(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(DamagedFile, match=f"{gone}: {told}"):
        Journal(tmp_path)


def test_lines_in_another_order_are_an_error(tmp_path: Path) -> None:
    whole = written(tmp_path)
    first, second, third = whole[COMMITS].splitlines(keepends=True)
    for mixed in (second + first + third, first + third, first + first, third):
        (tmp_path / COMMITS).write_bytes(mixed)
        with pytest.raises(DamagedFile, match="is damaged at byte"):
            Journal(tmp_path)


def test_a_journal_of_other_streams_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(DamagedFile, match="does not commit records, metrics"):
        Journal(tmp_path, ("records", "metrics"))


def test_a_note_comes_back_as_json_would_have_it(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.commit({}, {"sizes": (8, 4)})
        assert journal.notes == [{"sizes": [8, 4]}]


def test_a_commit_that_cannot_be_encoded_adds_nothing(tmp_path: Path, prefixes: list[dict[str, bytes]]) -> None:
    with Journal(tmp_path) as journal:
        for wrong in (lambda: journal.commit({"records": ["\ud800"]}), lambda: journal.commit({}, {"x": float("nan")})):
            with pytest.raises(ValueError, match=r"surrogates not allowed|Out of range float"):
                wrong()
        for lines, note in CHUNKS:
            journal.commit(lines, note)
    assert contents(tmp_path) == prefixes[-1]


def test_a_full_disk_loses_the_chunk_and_nothing_else(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: the kernel refuses in the middle of the write."""
    limited = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from cai.errors import CaiError\n"
        "from cai.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.commit({'records': ['first']})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    journal.commit({'rejects': ['why'], 'records': ['x' * 9000]})\n"
        "except CaiError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "journal.commit({'records': ['second']})\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot be written (File too large); make room" in done.stdout
    with Journal(tmp_path) as journal:
        assert journal.chunks == 2
    assert list(read_lines(tmp_path / "records.jsonl")) == ["first", "second"]
    assert list(read_lines(tmp_path / "rejects.jsonl")) == []


def test_a_process_killed_at_any_moment_leaves_whole_chunks(tmp_path: Path) -> None:
    endless = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cai.journal import Journal\n"
        "with Journal(Path(sys.argv[1])) as journal:\n"
        "    while True:\n"
        "        n = journal.chunks\n"
        "        journal.commit({'records': [f'{n} {i}' for i in range(200)], 'rejects': [str(n)]}, {'n': n})\n"
        "        print(n, flush=True)\n"
    )
    acknowledged = -1
    for kill in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", endless, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(5 + kill):
                acknowledged = int(process.stdout.readline())
            process.kill()
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        with Journal(tmp_path) as journal:
            # What was acknowledged is there; the one after it may have been committed before the kill.
            assert journal.chunks in (acknowledged + 1, acknowledged + 2)
            chunks = journal.chunks
        assert list(read_lines(tmp_path / "records.jsonl")) == [f"{n} {i}" for n in range(chunks) for i in range(200)]
        assert list(read_lines(tmp_path / "rejects.jsonl")) == [str(n) for n in range(chunks)]


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"one\ntw")
    assert list(read_lines(tmp_path / "records.jsonl")) == ["one"]


def test_a_stream_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        list(read_lines(tmp_path / "records.jsonl"))
    (tmp_path / "records.jsonl").write_bytes(b"one\n\xff\n")
    with pytest.raises(DamagedFile, match="is not UTF-8 in the line at byte 4"):
        list(read_lines(tmp_path / "records.jsonl"))


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be opened"):
        Journal(tmp_path / "file")


def test_each_commit_line_is_plain_json(tmp_path: Path) -> None:
    lines = written(tmp_path)[COMMITS].decode().splitlines()
    assert [json.loads(line)["chunk"] for line in lines] == [0, 1, 2]
    assert json.loads(lines[-1])["ends"]["records"] == (tmp_path / "records.jsonl").stat().st_size
