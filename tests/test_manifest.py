"""A manifest says that a folder is finished, and notices whatever changes afterwards."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import DamagedFile, InputError
from cai.manifest import NAME, FileFact, Manifest, read_manifest, verify_manifest, write_manifest


def finished(folder: Path) -> Manifest:
    (folder / "adapter").mkdir(parents=True)
    (folder / "records.jsonl").write_bytes(b"abc")
    (folder / "adapter" / "adapter.bin").write_bytes(b"\x00\x01")
    (folder / ".lock").write_text("1\n")
    counts, facts = {"in": 3, "out": 2, "rejects": 1}, {"seconds": None, "device": "cpu"}
    return write_manifest(folder, "revise", 1, "d" * 64, {"prompts": "p" * 64}, counts, facts)


def test_a_manifest_lists_every_file_but_the_hidden(tmp_path: Path) -> None:
    manifest = finished(tmp_path)
    assert sorted(manifest.files) == ["adapter/adapter.bin", "records.jsonl"]
    assert manifest.files["records.jsonl"] == FileFact(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert finished(tmp_path) == read_manifest(tmp_path) == verify_manifest(tmp_path)


def test_the_same_folder_has_the_same_manifest(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    finished(tmp_path / "b")
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_a_folder_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    with pytest.raises(InputError, match="is not finished: it has no manifest"):
        verify_manifest(tmp_path)


@pytest.mark.parametrize("name", ["records.jsonl", "adapter/adapter.bin"])
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    finished(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DamagedFile, match=f"{name}: was changed after the folder was finished"):
        verify_manifest(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DamagedFile, match=f"{name}: is missing"):
        verify_manifest(tmp_path)


def test_what_is_hidden_may_change(tmp_path: Path) -> None:
    manifest = finished(tmp_path)
    (tmp_path / ".lock").unlink()
    assert verify_manifest(tmp_path) == manifest


@given(data=st.data())
def test_a_manifest_with_another_bit_or_an_end_cut_off_is_never_another_manifest(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("m")
    manifest = finished(folder)
    content = bytearray((folder / NAME).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 2))]
    else:
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
    (folder / NAME).write_bytes(content)
    try:
        # Between the values stand spaces, and one white space may become another.
        assert read_manifest(folder) == manifest
    except DamagedFile as error:
        assert error.place == str(folder / NAME)
