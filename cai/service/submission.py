"""A pipeline that was sent in: checked as `cai run` would, and kept from files that are not the project's.

What is found sound here is found sound by the worker as well, unless files change in between.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from cai.errors import InputError
from cai.files import write_atomic
from cai.pipeline.prompts import EMBEDDED
from cai.pipeline.spec import load_pipeline
from cai.strict_yaml import parse_yaml

NAME = "pipeline"
TAKEN = frozenset({"tiny"})
"""Names that mean a model already."""


@dataclass(frozen=True, slots=True)
class Submission:
    run: str
    text: str
    """The pipeline file."""


def check_submission(pipeline: str | dict[str, object], name: str | None, project: Path, scratch: Path) -> Submission:
    text = pipeline if isinstance(pipeline, str) else json.dumps(pipeline, ensure_ascii=False, indent=2) + "\n"
    data = parse_yaml(text, NAME).data
    for place, value in _paths(data):
        _check_inside(place, value, project)
    if isinstance(data, dict) and data.get("models"):
        # Whoever may send a pipeline could otherwise have keys of this machine sent to an address of their own.
        raise InputError(f"{NAME}: models", "is not taken from outside", None, "run it on the machine by `cai run`")
    write_atomic(scratch, text)
    try:
        loaded = load_pipeline(scratch, [f"name={name}"] if name else [])
    except InputError as error:
        # People sent a text: where it lay for a moment is nothing to them.
        place, problem, remedy = (
            part.replace(str(scratch), NAME) for part in (error.place, error.problem, error.remedy)
        )
        raise InputError(place, problem, error.value, remedy) from None
    finally:
        scratch.unlink(missing_ok=True)
    if loaded.spec.name in TAKEN:
        raise InputError("name", "is the name of the embedded model", loaded.spec.name, "choose another")
    return Submission(loaded.spec.name, text)


def _paths(data: object) -> Iterator[tuple[str, str]]:
    """Whatever in the file may be a path, and where it stands."""
    if not isinstance(data, dict):
        return
    model, prompts = data.get("model"), data.get("prompts")
    found: list[tuple[str, object]] = [("constitution", data.get("constitution"))]
    if isinstance(model, dict):
        found.append(("model.base", model.get("base")))
    for part, value in prompts.items() if isinstance(prompts, dict) else ():
        found.append((f"prompts.{part}", value.get("from") if isinstance(value, dict) else value))
    stages = data.get("stages")
    for i, stage in enumerate(stages if isinstance(stages, list) else ()):
        for kind, settings in stage.items() if isinstance(stage, dict) else ():
            # Another run, by its name or its folder.
            found.append((f"stages.{i}.{kind}.from", settings.get("from") if isinstance(settings, dict) else None))
    yield from ((place, value) for place, value in found if isinstance(value, str) and value not in EMBEDDED)


def _check_inside(place: str, value: str, project: Path) -> None:
    path = PurePath(value)
    inside = not path.is_absolute() and ".." not in path.parts and not value.startswith("~") and "\0" not in value
    if not inside or not (project / path).resolve().is_relative_to(project):
        remedy = "name a file below the folder in which `cai serve` was started, by its path from there"
        raise InputError(f"{NAME}: {place}", "leads out of the project", value, remedy)
