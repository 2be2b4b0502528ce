"""Merging an adapter into the weights that its base was published with, file by file.

The 4-bit base of a run is never merged: what NF4 rounded away would stay lost, and rounding the sum again would lose
more. Weights keep their names, shapes and type, so a merged file is a copy of the base's in which the adapted matrices
are overwritten where they stand; what is held in memory is one matrix. Whether the result says what the tuned model
says is `rereading`'s business.
"""

import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from cai.errors import InputError
from cai.files import sync_folder
from cai.models.local.lora import read_adapter

INDEX = "model.safetensors.index.json"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Update:
    """What an adapter adds to one matrix: s · B · A (Hu et al. 2021, equation 3, with s = α / r)."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scaling: float

    def added_to(self, weight_OI: torch.Tensor, name: str) -> torch.Tensor:
        shape = [self.b_OR.shape[0], self.a_RI.shape[1]]
        if list(weight_OI.shape) != shape or weight_OI.dtype not in _FLOATS:
            found = f"{list(weight_OI.shape)} of {weight_OI.dtype}"
            raise InputError(name, f"is no matrix of {shape} floats", found, "merge into the base it was trained on")
        sum_OI = weight_OI.float() + self.scaling * (self.b_OR.float() @ self.a_RI.float())
        merged_OI = sum_OI.to(weight_OI.dtype)
        if not torch.isfinite(merged_OI).all():
            remedy = f"the base is stored as {weight_OI.dtype}; export the adapter instead"
            raise InputError(name, "has a merged weight that its type cannot hold", None, remedy)
        return merged_OI


def write_merged_weights(base: Path, adapter: Path, target: Path) -> str:
    """The base's weight files with the adapter added, and their index; the type that they are stored in."""
    shards = weight_files(base)
    updates = _updates(adapter, _tensor_names(shards))
    free, needed = shutil.disk_usage(target).free, sum(path.stat().st_size for path in shards)
    if free < needed:
        raise InputError(
            str(target.parent), "has too little room for the merged weights", f"{free >> 20} MiB free",
            f"{needed >> 20} MiB are needed; choose another disk",
        )  # fmt: skip
    for shard in shards:
        _write_shard(shard, target / shard.name, updates)
    if (base / INDEX).is_file():
        shutil.copyfile(base / INDEX, target / INDEX)
    sync_folder(target)
    return _stored_type(shards[0])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that make up the model: those its index names, or its only one."""
    index = folder / INDEX
    if index.is_file():
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    single = folder / "model.safetensors"
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = {path.name for path in found}
        raise InputError(str(folder), f"has several weight files and no {INDEX}", sorted(names), "add its index")
    return found


def _updates(adapter: Path, names: set[str]) -> dict[str, _Update]:
    """What is to be added, by the name of the tensor in the base's files."""
    config, tensors = read_adapter(adapter)
    if config.use_rslora or config.rank_pattern or config.alpha_pattern or config.fan_in_fan_out:
        raise InputError(str(adapter), "has a scaling of its own, which is not merged here", None, "merge it with peft")
    updates: dict[str, _Update] = {}
    for key, a_RI in tensors.items():
        path, mark, _ = key.partition(".lora_A.")
        if mark:
            wanted = f"{path}.weight"
            # A file saved from the bare decoder lacks the first part of the names; transformers adds it.
            stored = wanted if wanted in names else wanted.partition(".")[2]
            if stored not in names:
                remedy = "merge into the base it was trained on, or export the adapter"
                raise InputError(str(adapter), "adapts a matrix that the base's files do not have", wanted, remedy)
            updates[stored] = _Update(a_RI, tensors[f"{path}.lora_B.weight"], config.lora_alpha / config.r)
    return updates


def _tensor_names(shards: list[Path]) -> set[str]:
    return {name for shard in shards for name in _header(shard)[1]}


def _write_shard(source: Path, target: Path, updates: Mapping[str, _Update]) -> None:
    shutil.copyfile(source, target)
    start, header = _header(source)
    with safe_open(source, framework="pt") as tensors, open(target, "r+b") as out:
        for name in sorted(header.keys() & updates.keys()):
            begin, end = header[name]["data_offsets"]
            content = updates[name].added_to(tensors.get_tensor(name), name).contiguous()
            data = content.view(torch.uint8).numpy().tobytes()
            assert len(data) == end - begin, (name, len(data), begin, end)
            out.seek(start + begin)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _header(path: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Where the tensors' bytes start in a safetensors file, and what its header says of each."""
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header


def _stored_type(shard: Path) -> str:
    kinds = {fact["dtype"] for fact in _header(shard)[1].values()}
    return " and ".join(sorted(str(kind).lower() for kind in kinds))
