"""Adapters that a person names: a run or one of its stages, the folder of a training alone, or a plain PEFT folder.

What one is, is told from its configuration file, so that a wrong one is refused before a model is loaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from cai.errors import InputError, MissingModel
from cai.files import sha256_of
from cai.models.local.spec import ModelSpec
from cai.pipeline.final import find_final, refuse_misspelt
from cai.records import digest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    name: str
    """As it was named."""
    folder: Path
    digest: str
    scores: bool
    """Whether it is a reward model."""
    base: str
    """What its configuration calls its base."""
    spec: ModelSpec | None
    """The model that it was trained on, where a run or a training tells it."""


def adapter_named(option: str, name: str) -> NamedAdapter:
    """The adapter behind a name; `option` is where it was named."""
    place = f"{option} {name}"
    path = Path(name).expanduser()
    final = None if (path / CONFIG).is_file() else find_final(name)
    folder = final.adapter if final else path
    if not (folder / CONFIG).is_file():
        refuse_misspelt(name)
        known = "name a run, the folder of a training, or a PEFT folder with adapter_config.json"
        raise MissingModel(place, "there is no such adapter", None, known)
    if not (folder / WEIGHTS).is_file():
        raise InputError(place, f"has no {WEIGHTS}; other weight files are not loaded", None, "save it as safetensors")
    try:
        plain = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise InputError(str(folder / CONFIG), f"is not JSON: {error}", None, "restore it") from None
    scores = plain.get("task_type") == "SEQ_CLS"
    content = digest([sha256_of(folder / CONFIG), sha256_of(folder / WEIGHTS)])
    base = str(plain.get("base_model_name_or_path") or "")
    return NamedAdapter(name, folder, content, scores, base, final.spec if final else None)


def require_base(option: str, adapter: NamedAdapter, spec: ModelSpec) -> None:
    """Refuse an adapter of another base, as far as its files say which one it has."""
    place = f"{option} {adapter.name}"
    if adapter.spec is not None:
        theirs, ours = (_place(each) for each in (adapter.spec, spec))
        if theirs != ours:
            raise InputError(place, f"was trained on {theirs}", f"--model {ours}", "take the base that it belongs to")
    elif adapter.base == "tiny" and spec.base != "tiny":
        raise InputError(place, "was trained on tiny", f"--model {spec.base}", "take the base that it belongs to")


def _place(spec: ModelSpec) -> str:
    """A model as people name it; a folder by its full path."""
    if spec.base == "tiny":
        return spec.base
    if Path(spec.base).expanduser().is_dir():
        return str(Path(spec.base).expanduser().resolve())
    return f"{spec.base}@{spec.revision}"
