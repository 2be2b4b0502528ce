"""AdamW on the LoRA parameters, its schedule and clipping, and the loop that every trainer shares.

What a trainer's gradient is, and what it reports, is the trainer's own: it hands `optimise` a function. How a
checkpoint looks on disk is `checkpoint`'s.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from cai.errors import CaiError, InputError, Interrupted
from cai.models.local.roles import Trainee
from cai.models.local.view import LocalModel
from cai.train.batches import Batch
from cai.train.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from cai.train.config import TrainConfig
from cai.train.curve import Curve

Probe = Callable[[LocalModel], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Step:
    """One update and what was measured; a step without metrics only carries its notice."""

    number: int
    total: int
    metrics: dict[str, float]
    notice: str = ""
    """A warning in plain words that did not stop the training."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one training works on; `digest` names everything that decides its outcome."""

    digest: str
    ids: Sequence[str]
    batches: Sequence[Batch]
    trainee: Trainee
    folder: Path
    stop: Callable[[], bool]
    probe: Probe | None


@dataclass(frozen=True, slots=True)
class Gradient:
    """What accumulating one batch's gradient found, still on the device."""

    row_losses_B: Tensor
    """In the order of the batch's rows."""
    metrics: dict[str, Tensor]
    """Scalars; `loss` is among them."""


def optimise(config: TrainConfig, job: Job, accumulate: Callable[[Batch], Gradient]) -> Iterator[Step]:
    """Update by update from the newest sound checkpoint to the end, then `adapter/`.

    Closing this generator only releases what it holds; `stop` saves a checkpoint first and raises `Interrupted`.
    """
    parameters = job.trainee.parameters()
    optimizer = adamw(config, parameters)
    checkpoints, total = job.folder / "checkpoints", len(job.batches)
    found = newest_checkpoint(checkpoints, job.digest)
    curve = Curve(job.folder / "metrics.jsonl", found.checkpoint.curve if found.checkpoint else None)
    done = saved = found.checkpoint.number if found.checkpoint else 0
    try:
        if found.checkpoint:
            job.trainee.load_state(found.checkpoint.adapter)
            restore_moments(optimizer, parameters, found.checkpoint.optimizer)
        for notice in found.notices:
            yield Step(done, total, {}, notice)
        while done < total:
            metrics = None if job.stop() else _update(config, job, done + 1, optimizer, accumulate)
            if metrics is not None:
                done += 1
                curve.append(done, metrics)
            due = metrics is None or done == total or done % config.checkpoint_every == 0
            if due and saved < done:
                tensors = job.trainee.state(), moments(optimizer, parameters)
                save_checkpoint(checkpoints, job.digest, Checkpoint(done, *tensors, curve.mark()))
                prune_checkpoints(checkpoints, config.keep_checkpoints, config.checkpoint_every)
                saved = done
            if metrics is None:
                raise Interrupted(f"{job.folder}: stopped after update {done} of {total}; the same command goes on")
            yield Step(done, total, metrics)
        _save_adapter(job.trainee, job.folder)
    finally:
        optimizer.zero_grad(set_to_none=True)
        curve.close()


def adamw(config: TrainConfig, parameters: Mapping[str, Parameter]) -> torch.optim.AdamW:
    """AdamW over the given parameters, which stay in fp32 whatever the base computes in."""
    assert all(p.dtype == torch.float32 for p in parameters.values()), sorted(parameters)
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def learning_rate(config: TrainConfig, number: int, total: int) -> float:
    """The rate of update `number`, counted from 1. No update is wasted on a rate of zero, at neither end."""
    warmup = round(config.warmup * total)
    if number <= warmup:
        return config.learning_rate * number / (warmup + 1)
    progress = (number - 1 - warmup) / (total - warmup)
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - progress)
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def moments(optimizer: torch.optim.AdamW, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """AdamW's whole memory as named tensors: `exp_avg/<parameter>` and so on."""
    return {
        f"{key}/{name}": value.detach().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_moments(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `moments` took. AdamW keeps its step counter on the CPU, and the rest beside the parameter."""
    for path, value in tensors.items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.clone() if key == "step" else value.to(parameter.device, copy=True)


def _update(
    config: TrainConfig,
    job: Job,
    number: int,
    optimizer: torch.optim.AdamW,
    accumulate: Callable[[Batch], Gradient],
) -> dict[str, float]:
    """One optimizer step. The device is read once, before the weights change, so a bad gradient changes nothing."""
    total, batch = len(job.batches), job.batches[number - 1]
    parameters = optimizer.param_groups[0]["params"]
    rate = learning_rate(config, number, total)
    optimizer.zero_grad(set_to_none=True)
    gradient = accumulate(batch)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    measured = {**gradient.metrics, "grad_norm": norm}
    metrics = dict(zip(measured, torch.stack([v.float() for v in measured.values()]).tolist(), strict=True))
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        raise _not_finite(job, number, gradient.row_losses_B)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    metrics["learning_rate"] = rate
    due = number == total or (config.probe_every > 0 and number % config.probe_every == 0)
    if job.probe and due:
        optimizer.zero_grad(set_to_none=True)
        metrics |= job.probe(job.trainee.view())
    return metrics


def _not_finite(job: Job, number: int, row_losses_B: Tensor) -> CaiError:
    rows = job.batches[number - 1].rows
    finite = torch.isfinite(row_losses_B).tolist()
    what = "gradient" if all(finite) else "loss"
    ids = [job.ids[row] for row, sound in zip(rows, finite, strict=True) if not sound or what == "gradient"]
    named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return CaiError(
        f"{job.folder}: update {number} of {len(job.batches)}: the {what} is not a finite number in rows {named}; "
        "look at these rows, or lower learning_rate; checkpoints before this update are kept"
    )


def require_rows(folder: Path, count: int) -> None:
    """A training without rows would end at once with an untrained adapter."""
    if count == 0:
        raise InputError(str(folder), "there is no row to train on", None, "look at what the stages before rejected")


def _save_adapter(trainee: Trainee, folder: Path) -> None:
    """Saved beside its place and then renamed, so that `adapter/` is always a whole one."""
    unfinished, finished = folder / "adapter.unfinished", folder / "adapter"
    shutil.rmtree(unfinished, ignore_errors=True)
    trainee.save(unfinished)
    shutil.rmtree(finished, ignore_errors=True)
    unfinished.rename(finished)
