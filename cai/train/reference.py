"""The reference's log-probabilities of every answer: computed once, before the first update, and kept on disk.

They go through the trainee on the batches of the first epoch, so that policy and reference see equal shapes and the
same kernels, and an untrained policy equals its reference to the last bit.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from cai.errors import DamagedFile, Interrupted
from cai.files import write_atomic
from cai.manifest import read_manifest, verify_manifest, write_manifest
from cai.models.local.logprobs import TokenRow
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.train.batches import Batch, tokens_digest

_FILE = "logps.safetensors"


@dataclass(frozen=True, slots=True)
class PairRow:
    id: str
    chosen: TokenRow
    rejected: TokenRow
    p_chosen: float = 1.0
    """The judge's probability that `chosen` is the better answer."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Summed log-probabilities by the pair's position (N pairs)."""

    chosen_N: Tensor
    rejected_N: Tensor


def answers(rows: Sequence[PairRow], micro: Sequence[int]) -> list[TokenRow]:
    """A forward pass over pairs: all chosen answers, then all rejected ones."""
    return [rows[i].chosen for i in micro] + [rows[i].rejected for i in micro]


def reference_logps(
    rows: Sequence[PairRow], batches: Sequence[Batch], trainee: Trainee, folder: Path, stop: Callable[[], bool]
) -> Reference:
    """From `folder/reference` when that is of these pairs, batches and this trainee; else computed, and kept there."""
    kept = folder / "reference"
    identity = _identity(rows, batches, trainee)
    return _kept(kept, identity) or _computed(rows, batches, trainee, kept, identity, stop)


def _identity(rows: Sequence[PairRow], batches: Sequence[Batch], trainee: Trainee) -> str:
    tokens = tokens_digest((row.id, answer) for row in rows for answer in (row.chosen, row.rejected))
    plan = [batch.micros for batch in batches]
    return digest(["reference", tokens, plan, trainee.view().fingerprint])


def _kept(folder: Path, identity: str) -> Reference | None:
    try:
        manifest = read_manifest(folder)
        if manifest is None or manifest.digest != identity:
            return None
        verify_manifest(folder)
    except DamagedFile:
        return None
    tensors = load((folder / _FILE).read_bytes())
    return Reference(tensors["chosen"], tensors["rejected"])


def _computed(
    rows: Sequence[PairRow],
    batches: Sequence[Batch],
    trainee: Trainee,
    kept: Path,
    identity: str,
    stop: Callable[[], bool],
) -> Reference:
    order = [row for batch in batches for row in batch.rows]
    chosen, rejected = [], []
    for number, batch in enumerate(batches):
        if stop():
            raise Interrupted(
                f"{kept.parent}: stopped in the reference log-probabilities, at batch {number + 1} of {len(batches)}; "
                "the same command computes them again"
            )
        for micro in batch.micros:
            sums_B = trainee.reference_logps(answers(rows, micro)).sums().cpu()
            chosen.append(sums_B[: len(micro)])
            rejected.append(sums_B[len(micro) :])
    place_N = torch.argsort(torch.tensor(order))
    tensors = {"chosen": torch.cat(chosen)[place_N], "rejected": torch.cat(rejected)[place_N]}
    shutil.rmtree(kept, ignore_errors=True)
    write_atomic(kept / _FILE, save(tensors))
    write_manifest(kept, "reference", 1, identity, {}, {"pairs": len(rows)}, {})
    return Reference(tensors["chosen"], tensors["rejected"])
