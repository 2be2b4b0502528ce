"""Checkpoints on disk: whole or absent, the newest sound one wins, and nothing else is believed."""

from pathlib import Path

import pytest
import torch

from cai.errors import DamagedFile, InputError
from cai.train.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from cai.train.curve import Curve, CurveMark

MARK = CurveMark(12, "ab")
FILES = ["adapter.safetensors", "carried.safetensors", "manifest.json", "optimizer.safetensors"]


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        number,
        {"w": torch.full((2, 3), number / 7)},
        {"step/w": torch.tensor(float(number))},
        {"k": torch.arange(9)},
        MARK,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_all(folder: Path, *numbers: int) -> None:
    for number in numbers:
        save_checkpoint(folder, "d", checkpoint(number))


def test_what_was_saved_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    save_all(tmp_path, 4, 12)
    found = newest_checkpoint(tmp_path, "d")
    assert found.notices == ()
    assert found.checkpoint is not None
    assert (found.checkpoint.number, found.checkpoint.curve) == (12, MARK)
    assert torch.equal(found.checkpoint.adapter["w"], checkpoint(12).adapter["w"])
    assert torch.equal(found.checkpoint.optimizer["step/w"], torch.tensor(12.0))


def test_nothing_but_safetensors_and_json_is_written(tmp_path: Path) -> None:
    save_all(tmp_path, 4)
    assert names(tmp_path / "00000004") == FILES


def test_without_checkpoints_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", "d").checkpoint is None


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    save_all(tmp_path, 4, 8, 12)
    path = tmp_path / "00000012" / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-20] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-20])
    found = newest_checkpoint(tmp_path, "d")
    assert found.checkpoint is not None
    assert found.checkpoint.number == 8
    unfinished = file == "manifest.json" and damage == "gone"
    assert len(found.notices) == (0 if unfinished else 1)
    assert all("00000012 is damaged" in notice and file in notice for notice in found.notices)
    assert names(tmp_path) == ["00000004", "00000008"]


def test_when_all_are_damaged_the_training_starts_over_and_says_so(tmp_path: Path) -> None:
    save_all(tmp_path, 4, 8)
    for number in ("00000004", "00000008"):
        (tmp_path / number / "adapter.safetensors").write_bytes(b"")
    found = newest_checkpoint(tmp_path, "d")
    assert found.checkpoint is None
    assert len(found.notices) == 2


def test_a_checkpoint_of_another_training_is_refused_and_kept(tmp_path: Path) -> None:
    save_all(tmp_path, 4)
    with pytest.raises(InputError, match="other rows, settings or weights"):
        newest_checkpoint(tmp_path, "other")
    assert names(tmp_path) == ["00000004"]


@pytest.mark.parametrize(
    ("numbers", "keep", "kept"),
    [
        ((10, 20, 30), 2, [20, 30]),
        ((10, 20, 30), 1, [30]),
        ((10, 20, 30), 5, [10, 20, 30]),
        ((10, 20, 24, 30), 2, [20, 30]),
        ((10, 20, 24), 2, [20, 24]),
        ((7,), 3, [7]),
    ],
)
def test_the_newest_stay_and_a_stop_in_between_leaves_no_trace(
    tmp_path: Path, numbers: tuple[int, ...], keep: int, kept: list[int]
) -> None:
    save_all(tmp_path, *numbers)
    prune_checkpoints(tmp_path, keep, every=10)
    assert [int(name) for name in names(tmp_path)] == kept


def test_the_curve_is_cut_back_to_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curve = Curve(path, None)
    curve.append(1, {"loss": 0.5})
    mark = curve.mark()
    curve.append(2, {"loss": 0.25})
    curve.close()
    again = Curve(path, mark)
    again.append(2, {"loss": 0.125})
    again.close()
    assert path.read_text() == '{"loss":0.5,"step":1}\n{"loss":0.125,"step":2}\n'


def test_a_curve_that_lost_lines_under_its_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curve = Curve(path, None)
    curve.append(1, {"loss": 0.5})
    mark = curve.mark()
    curve.close()
    for content in ('{"loss":0.6,"step":1}\n', '{"loss"', None):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with pytest.raises(DamagedFile, match=r"metrics\.jsonl"):
            Curve(path, mark)
