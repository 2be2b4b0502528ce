"""Checkpoints: adapter, AdamW's moments, what is carried, and where the training stood, as safetensors and JSON.

    checkpoints/00000040/  adapter  optimizer  carried (.safetensors)  manifest.json (last; holds number and curve)

Neither schedule nor sampler has a state: both are functions of the update's number. What is put back where is
`optimise`'s business.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from cai.errors import DamagedFile, InputError
from cai.files import write_atomic
from cai.manifest import Manifest, read_manifest, verify_manifest, write_manifest
from cai.train.curve import CurveMark

_VERSION = 2
_FILES = ("adapter", "optimizer", "carried")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after `number` updates."""

    number: int
    adapter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    carried: Mapping[str, Tensor]
    """What lives longer than an update beside the weights; often nothing."""
    curve: CurveMark


@dataclass(frozen=True, slots=True)
class Found:
    """The newest sound checkpoint, if any, and a notice for each damaged one that was passed over."""

    checkpoint: Checkpoint | None
    notices: tuple[str, ...] = ()


def save_checkpoint(folder: Path, digest: str, checkpoint: Checkpoint) -> None:
    """A crash at any moment leaves this checkpoint whole or without a manifest, and the older ones as they were."""
    target = folder / f"{checkpoint.number:08d}"
    shutil.rmtree(target, ignore_errors=True)
    for name, tensors in zip(_FILES, (checkpoint.adapter, checkpoint.optimizer, checkpoint.carried), strict=True):
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        write_atomic(target / f"{name}.safetensors", content)
    facts: dict[str, object] = {"curve": asdict(checkpoint.curve)}
    write_manifest(target, "checkpoint", _VERSION, digest, {}, {"updates": checkpoint.number}, facts)


def newest_checkpoint(folder: Path, digest: str, before: int | None = None) -> Found:
    """The newest checkpoint whose files are all as they were written, of those of earlier updates where `before` is
    given. Damaged and unfinished ones on the way are removed."""
    notices: list[str] = []
    paths = [path for path in _checkpoint_folders(folder) if before is None or int(path.name) < before]
    for path in sorted(paths, reverse=True):
        try:
            checkpoint = _read(path, digest)
        except DamagedFile as damage:
            notices.append(f"checkpoint {path.name} is damaged and was passed over: {damage.place} {damage.problem}")
            checkpoint = None
        if checkpoint:
            return Found(checkpoint, tuple(notices))
        shutil.rmtree(path)
    return Found(None, tuple(notices))


def prune_checkpoints(folder: Path, keep: int, every: int) -> None:
    """Keep the newest and, before it, the newest regular ones: a stop in between leaves no trace in the end."""
    paths = sorted(_checkpoint_folders(folder))
    regular = [path for path in paths[:-1] if int(path.name) % every == 0]
    kept = {*paths[-1:], *regular[max(0, len(regular) - (keep - 1)) :]}
    for path in paths:
        if path not in kept:
            shutil.rmtree(path)


def _checkpoint_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()] if folder.is_dir() else []


def _read(path: Path, digest: str) -> Checkpoint | None:
    """None when the checkpoint was never finished."""
    manifest = read_manifest(path)
    if manifest is None:
        return None
    verify_manifest(path)
    if manifest.digest != digest:
        remedy = "give this training a folder of its own, or remove the checkpoints"
        raise InputError(
            str(path), "belongs to a training with other rows, settings or weights to start from", None, remedy
        )
    adapter, optimizer, carried = (load((path / f"{name}.safetensors").read_bytes()) for name in _FILES)
    return Checkpoint(manifest.counts["updates"], adapter, optimizer, carried, _curve_mark(manifest))


def _curve_mark(manifest: Manifest) -> CurveMark:
    mark = manifest.facts["curve"]
    assert isinstance(mark, dict), mark
    return CurveMark(**mark)
