"""Files are whole or absent, and a folder has one owner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cai.errors import CaiError, FolderInUse, InputError
from cai.files import folder_lock, growing_files, sha256_of, write_atomic


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_atomic(path, "a much longer first version")
    write_atomic(path, "zwölf")
    assert path.read_bytes() == "zwölf".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_growing_files_are_there_together_when_they_are_whole(tmp_path: Path) -> None:
    with growing_files(tmp_path, "a.txt", "b.txt") as files:
        files["a.txt"].write("zwölf\n")
        assert not (tmp_path / "a.txt").exists()
    assert [(tmp_path / name).read_text("utf-8") for name in ("a.txt", "b.txt")] == ["zwölf\n", ""]
    with pytest.raises(ZeroDivisionError), growing_files(tmp_path, "a.txt", "c.txt") as files:
        files["a.txt"].write(str(1 // 0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text("utf-8") == "zwölf\n"
    with (
        pytest.raises(CaiError, match=r"nowhere/.*: cannot be used \(No such file"),
        growing_files(tmp_path / "nowhere", "a"),
    ):
        pass


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("kept")
    with pytest.raises(CaiError, match=r"taken: cannot be written \(Is a directory\)"):
        write_atomic(tmp_path / "taken", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken" / "inside").read_text() == "kept"


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CaiError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below", "new")
    with pytest.raises(InputError, match="cannot be written"), folder_lock(tmp_path / "file"):
        pass


def test_a_written_file_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_in_use_names_its_owner_and_is_free_afterwards(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(FolderInUse, match=f"process {os.getpid()} is working in this folder"),
        folder_lock(tmp_path),
    ):
        pass
    with folder_lock(tmp_path):
        pass


def test_a_dead_process_owns_nothing_and_its_half_written_files_go(tmp_path: Path) -> None:
    hold = (
        "import sys, time, pathlib; from cai.files import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=f"process {owner.pid} "), folder_lock(tmp_path):
            pass
        half, other = tmp_path / "stage" / ".records.jsonl.0bce1442.tmp", tmp_path / ".of-a-person.tmp"
        half.parent.mkdir()
        half.write_text("half of it")
        other.write_text("kept")
        owner.kill()
        owner.wait()
        with folder_lock(tmp_path):
            assert not half.exists()
            half.write_text("being written")
        with folder_lock(tmp_path):
            assert half.exists() and other.exists()


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's own example.
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
