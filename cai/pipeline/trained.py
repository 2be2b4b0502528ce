"""The folder of one training alone: what it is of, by which the same command is known, and another one is refused.

    trained/dpo-pairs/  training.json  records.jsonl  rejects.jsonl  metrics.jsonl  events.jsonl
                        checkpoints/  adapter/  manifest.json (last)

`training.json` is written first. Its identity names everything that decides the result; the places in it only help to
find the base again.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cai.errors import DamagedFile, InputError, MissingModel, shorten
from cai.files import write_atomic
from cai.models.local.spec import ModelSpec
from cai.records import digest, from_dict

TRAINING = "training.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Training:
    method: str
    spec: ModelSpec
    """A hub model at its commit."""
    asked_revision: str | None
    """The revision as it was asked for: a branch that may have moved since."""
    base_folder: str
    """Where a base from a folder lay, in full."""
    data: str
    identity: Mapping[str, object]
    """Every setting by name, and the digests of data, base and adapters."""
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest([VERSION, dict(self.identity)])


def is_trained(folder: Path) -> bool:
    return (folder / TRAINING).is_file()


def write_training(folder: Path, training: Training) -> None:
    plain = dataclasses.asdict(training)
    write_atomic(folder / TRAINING, json.dumps({"version": VERSION, **plain}, indent=2, ensure_ascii=False) + "\n")


def read_training(folder: Path) -> Training:
    path = folder / TRAINING
    try:
        plain = json.loads(path.read_text("utf-8"))
        del plain["version"]
        return from_dict(Training, plain)
    except (ValueError, KeyError, TypeError) as error:
        remedy = "restore it, or remove the folder and train again"
        raise DamagedFile(str(path), f"does not describe a training ({error})", None, remedy) from None


def base_of(training: Training) -> ModelSpec:
    """The model that it was trained on; a folder by its full path, since this may be started elsewhere."""
    spec = training.spec
    if spec.base == "tiny" or spec.revision is not None:
        return spec
    for place in (training.base_folder, spec.base):
        if place and Path(place).expanduser().is_dir():
            return dataclasses.replace(spec, base=str(Path(place).expanduser().resolve()))
    raise MissingModel(TRAINING, "the base model of this training is gone", spec.base, "put it back where it was")


def refuse_another(folder: Path, training: Training) -> None:
    """Refuse a folder that another training began in, or that holds something else."""
    if not is_trained(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(str(folder), "holds something else", None, "name another folder with --out")
        return
    before = read_training(folder).identity
    if before == training.identity:
        return
    names = [*training.identity, *(name for name in before if name not in training.identity)]
    told = [
        f"{name} {_short(before.get(name))} there, {_short(training.identity.get(name))} here"
        for name in names
        if before.get(name) != training.identity.get(name)
    ]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    problem = f"belongs to another training ({'; '.join(told[:3])}{more})"
    raise InputError(str(folder), problem, None, "name another folder with --out, or remove this one")


def _short(value: object) -> str:
    text = "not set" if value is None else shorten(value, 40)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text
