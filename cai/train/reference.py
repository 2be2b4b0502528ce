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
from cai.models.local.layout import TokenRow
from cai.models.local.roles import Trainee
from cai.records import digest
from cai.train.batches import Batch, tokens_digest
from cai.train.losses import PairLogps

_FILE = "logps.safetensors"


@dataclass(frozen=True, slots=True)
class PairRow:
    id: str
    chosen: TokenRow
    rejected: TokenRow
    p_chosen: float = 1.0
    """The judge's probability that `chosen` is the better answer."""
    margin: float = 0.0
    """By how much the chosen answer's score must lead, where a reward model is trained."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Summed log-probabilities by the pair's position (N pairs)."""

    chosen_N: Tensor
    rejected_N: Tensor

    def of(self, micro: Sequence[int]) -> PairLogps:
        """Those of some pairs, with nothing said of the policy."""
        chosen_B, rejected_B = self.chosen_N[list(micro)], self.rejected_N[list(micro)]
        return PairLogps(torch.zeros_like(chosen_B), torch.zeros_like(rejected_B), chosen_B, rejected_B)


def no_reference(count: int) -> Reference:
    """For losses that compare with none: log-ratios are then the policy's own log-probabilities."""
    return Reference(torch.zeros(count), torch.zeros(count))


def answers(rows: Sequence[PairRow], micro: Sequence[int]) -> list[TokenRow]:
    """A forward pass over pairs: all chosen answers, then all rejected ones."""
    return [rows[i].chosen for i in micro] + [rows[i].rejected for i in micro]


def reference_logps(
    rows: Sequence[PairRow], batches: Sequence[Batch], trainee: Trainee, kept: Path, stop: Callable[[], bool]
) -> Reference:
    """From the folder `kept` when that is of these pairs, batches and this trainee; else computed, and kept there."""
    passes = [[answers(rows, micro) for micro in batch.micros] for batch in batches]
    sums = kept_sums(passes, trainee, kept, stop)
    order: list[int] = []
    chosen, rejected = [], []
    for batch, sums_of_batch in zip(batches, sums, strict=True):
        for micro, sums_B in zip(batch.micros, sums_of_batch, strict=True):
            order += micro
            chosen.append(sums_B[: len(micro)])
            rejected.append(sums_B[len(micro) :])
    place_N = torch.argsort(torch.tensor(order))
    return Reference(torch.cat(chosen)[place_N], torch.cat(rejected)[place_N])


def kept_sums(
    passes: Sequence[Sequence[Sequence[TokenRow]]], trainee: Trainee, kept: Path, stop: Callable[[], bool]
) -> list[list[Tensor]]:
    """The reference's summed log-probabilities of each row of each pass of each batch."""
    identity = _identity(passes, trainee)
    sums_N = _kept(kept, identity)
    if sums_N is None:
        sums_N = _computed(passes, trainee, kept, identity, stop)
    flat = iter(sums_N.split([len(rows) for batch in passes for rows in batch]))
    return [[next(flat) for _ in batch] for batch in passes]


def _identity(passes: Sequence[Sequence[Sequence[TokenRow]]], trainee: Trainee) -> str:
    named = ((f"{b}/{m}/{k}", row) for b, batch in enumerate(passes) for m, rows in enumerate(batch)
             for k, row in enumerate(rows))  # fmt: skip
    return digest(["reference", tokens_digest(named), trainee.view().fingerprint])


def _kept(folder: Path, identity: str) -> Tensor | None:
    try:
        manifest = read_manifest(folder)
        if manifest is None or manifest.digest != identity:
            return None
        verify_manifest(folder)
    except DamagedFile:
        return None
    return load((folder / _FILE).read_bytes())["sums"]


def _computed(
    passes: Sequence[Sequence[Sequence[TokenRow]]],
    trainee: Trainee,
    kept: Path,
    identity: str,
    stop: Callable[[], bool],
) -> Tensor:
    sums = []
    for number, batch in enumerate(passes):
        if stop():
            raise Interrupted(
                f"{kept.parent}: stopped in the reference log-probabilities, at batch {number + 1} of {len(passes)}; "
                "the same command computes them again"
            )
        sums += [trainee.reference_logps(rows).sums().cpu() for rows in batch]
    sums_N = torch.cat(sums)
    shutil.rmtree(kept, ignore_errors=True)
    write_atomic(kept / _FILE, save({"sums": sums_N}))
    write_manifest(kept, "reference", 2, identity, {}, {"answers": len(sums_N)}, {})
    return sums_N
