"""AdamW on the trained weights, its schedule and clipping, and the loop that every trainer shares.

What a trainer's gradient is, and what it reports, is the trainer's own: it hands `optimise` a function. How a
checkpoint looks on disk is `checkpoint`'s, what is best and when enough is enough `progress`'s, what an alarm is
`monitors`'.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import Parameter

from cai.errors import CaiError, InputError, Interrupted
from cai.files import write_atomic
from cai.models.local.view import LocalModel
from cai.train.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from cai.train.config import TrainConfig
from cai.train.curve import Curve
from cai.train.monitors import Alarm, Watch
from cai.train.progress import Progress

Probe = Callable[[LocalModel], Mapping[str, float]]
Measure = Callable[[], Mapping[str, float]]


class Learner(Protocol):
    """What can be trained: weights by name, which can be copied, put back and saved."""

    def parameters(self) -> dict[str, Parameter]: ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None: ...

    def save(self, folder: Path) -> None: ...


class Carried(Protocol):
    """What a training carries from one update to the next beside its weights, such as a rollout."""

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One update and what was measured; a step without metrics only carries its notice."""

    number: int
    total: int
    metrics: dict[str, float]
    notice: str = ""
    """A warning in plain words that did not stop the training."""
    alarm: Alarm | None = None
    """What the notice is about, where it is that the training goes wrong."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one training works on; `digest` names everything that decides its outcome."""

    digest: str
    total: int
    learner: Learner
    folder: Path
    stop: Callable[[], bool]
    measure: Measure | None = None
    """What is looked at every `probe_every` updates and after the last one."""
    carried: Carried | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@dataclass(frozen=True, slots=True)
class Gradient:
    """What accumulating one update's gradient found, still on the device."""

    ids: Sequence[str]
    row_losses_B: Tensor
    """In the order of the ids."""
    metrics: dict[str, Tensor]
    """Scalars; `loss` is among them."""


def optimise(config: TrainConfig, job: Job, accumulate: Callable[[int], Gradient]) -> Iterator[Step]:
    """Update by update from the newest sound checkpoint to the end, then `adapter/`.

    Closing this generator only releases what it holds; `stop` saves a checkpoint first and raises `Interrupted`.
    """
    parameters = job.learner.parameters()
    optimizer = adamw(config, parameters)
    found = newest_checkpoint(job.checkpoints, job.digest)
    curve = Curve(job.folder / "metrics.jsonl", found.checkpoint.curve if found.checkpoint else None)
    progress, watch = Progress(config, curve.history), Watch()
    endings = [_ends(config, watch.see(metrics)) for metrics in curve.history]
    ending = endings[-1] if endings else None
    begun = job.learner.state() if config.on_alarm == "rollback" else {}
    done = saved = found.checkpoint.number if found.checkpoint else 0
    try:
        if found.checkpoint:
            restore(job, optimizer, found.checkpoint)
        for notice in found.notices:
            yield Step(done, job.total, {}, notice)
        while done < job.total and ending is None and not progress.over:
            alarms: list[Alarm] = []
            metrics: dict[str, float] = {}
            stopped = job.stop()
            if not stopped:
                metrics = _update(config, job, done + 1, optimizer, accumulate)
                done += 1
                curve.append(done, metrics)
                if progress.see({**metrics, "step": done}):
                    write_atomic(_best_file(job, done), save(_plain(job.learner.state())))
                alarms = watch.see(curve.history[-1])
                ending = _ends(config, alarms)
            pauses = bool(alarms) and config.on_alarm == "pause"
            over = any((stopped, pauses, ending is not None, progress.over, done == job.total))
            if (over or done % config.checkpoint_every == 0) and saved < done:
                save_checkpoint(job.checkpoints, job.digest, _checkpoint(job, optimizer, done, curve))
                prune_checkpoints(job.checkpoints, config.keep_checkpoints, config.checkpoint_every)
                _forget_worse(job, progress)
                saved = done
            if stopped:
                raise Interrupted(f"{job.folder}: stopped after update {done} of {job.total}; the same command goes on")
            yield Step(done, job.total, metrics)
            for alarm in alarms:
                yield Step(done, job.total, {}, f"{alarm.evidence} {alarm.advice}", alarm)
            if pauses:
                told = f"paused after update {done} of {job.total}: {alarms[0].evidence} {alarms[0].advice}"
                raise Interrupted(f"{job.folder}: {told} The same command goes on.")
        for notice in _settled(config, job, progress, Ended(done, ending, begun)):
            yield Step(done, job.total, {}, notice)
        _save_adapter(job.learner, job.folder)
    finally:
        optimizer.zero_grad(set_to_none=True)
        curve.close()


@dataclass(frozen=True, slots=True)
class Ended:
    """How far a training came, because of which alarm it ended if it was one, and the weights it began with if it may
    have to go back to them."""

    number: int
    alarm: Alarm | None
    begun: Mapping[str, Tensor]


def _ends(config: TrainConfig, alarms: Sequence[Alarm]) -> Alarm | None:
    """The alarm because of which a training is over, if it is."""
    return alarms[0] if alarms and config.on_alarm in ("stop", "rollback") else None


def _settled(config: TrainConfig, job: Job, progress: Progress, ended: Ended) -> Iterator[str]:
    """Take the weights that the training is to end with, and say so where they are not the last ones."""
    best, done, alarm = progress.best, ended.number, ended.alarm
    if progress.over and done < job.total:
        assert best is not None
        yield f"stopped after update {done} of {job.total}: {config.best} was best at update {best.number}"
    if alarm:
        yield f"stopped after update {done} of {job.total} because of the alarm {alarm.kind!r}"
    back = alarm is not None and config.on_alarm == "rollback"
    if alarm and back and (best is None or not alarm.sound):
        before = newest_checkpoint(job.checkpoints, job.digest, before=alarm.sound + 1).checkpoint
        job.learner.load_state(before.adapter if before else ended.begun)
        yield (
            f"the result is update {before.number}, the last checkpoint before what the alarm tells of"
            if before
            else "the result is what the training began with: no checkpoint is from before what the alarm tells of"
        )
    elif best is not None and best.number < done:
        job.learner.load_state(load(_best_file(job, best.number).read_bytes()))
        yield f"the result is update {best.number}, where {config.best} was best: {best.value:.4g}"


def _best_file(job: Job, number: int) -> Path:
    return job.folder / "best" / f"{number:08d}.safetensors"


def _forget_worse(job: Job, progress: Progress) -> None:
    """No checkpoint can go back to what was best before the best one now."""
    for path in job.folder.glob("best/*.safetensors"):
        if progress.best is not None and path != _best_file(job, progress.best.number):
            path.unlink()


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


def restore(job: Job, optimizer: torch.optim.AdamW, checkpoint: Checkpoint) -> None:
    job.learner.load_state(checkpoint.adapter)
    restore_moments(optimizer, job.learner.parameters(), checkpoint.optimizer)
    if job.carried is not None:
        job.carried.load_state(checkpoint.carried)


def _checkpoint(job: Job, optimizer: torch.optim.AdamW, done: int, curve: Curve) -> Checkpoint:
    carried = {} if job.carried is None else job.carried.state()
    return Checkpoint(done, job.learner.state(), moments(optimizer, job.learner.parameters()), carried, curve.mark())


def _update(
    config: TrainConfig, job: Job, number: int, optimizer: torch.optim.AdamW, accumulate: Callable[[int], Gradient]
) -> dict[str, float]:
    """One optimizer step. The device is read once, before the weights change, so a bad gradient changes nothing."""
    parameters = optimizer.param_groups[0]["params"]
    rate = learning_rate(config, number, job.total)
    optimizer.zero_grad(set_to_none=True)
    gradient = accumulate(number)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    measured = {**gradient.metrics, "grad_norm": norm}
    metrics = dict(zip(measured, torch.stack([v.float() for v in measured.values()]).tolist(), strict=True))
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        raise _not_finite(job, number, gradient)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    metrics["learning_rate"] = rate
    due = number == job.total or (config.probe_every > 0 and number % config.probe_every == 0)
    if job.measure and due:
        optimizer.zero_grad(set_to_none=True)
        metrics |= job.measure()
    return metrics


def _not_finite(job: Job, number: int, gradient: Gradient) -> CaiError:
    finite = torch.isfinite(gradient.row_losses_B).tolist()
    what = "gradient" if all(finite) else "loss"
    ids = [name for name, sound in zip(gradient.ids, finite, strict=True) if not sound or what == "gradient"]
    named = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return CaiError(
        f"{job.folder}: update {number} of {job.total}: the {what} is not a finite number in rows {named}; "
        "look at these rows, or lower learning_rate; checkpoints before this update are kept"
    )


def require_rows(folder: Path, count: int) -> None:
    """A training without rows would end at once with an untrained adapter."""
    if count == 0:
        raise InputError(str(folder), "there is no row to train on", None, "look at what the stages before rejected")


def joined(*measures: Measure | None) -> Measure | None:
    """One measure of all that there are."""
    present = [measure for measure in measures if measure is not None]

    def measure() -> dict[str, float]:
        return {name: value for each in present for name, value in each().items()}

    return measure if present else None


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _save_adapter(learner: Learner, folder: Path) -> None:
    """Saved beside its place and then renamed, so that `adapter/` is always a whole one."""
    unfinished, finished = folder / "adapter.unfinished", folder / "adapter"
    shutil.rmtree(unfinished, ignore_errors=True)
    learner.save(unfinished)
    shutil.rmtree(finished, ignore_errors=True)
    unfinished.rename(finished)
