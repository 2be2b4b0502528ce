"""Which commit of a hub model a run keeps to: a branch is looked up once, and a run that goes on takes the same commit.

The commit stands in `run.yaml`; where the model's files lie is `finding`'s.
"""

from dataclasses import replace
from pathlib import Path

from cai.models.local.spec import ModelSpec
from cai.pipeline.spec import Pipeline
from cai.store.run_folder import RUN
from cai.strict_yaml import read_yaml


def pinned(pipeline: Pipeline, folder: Path) -> ModelSpec | None:
    """The model at the commit that this run has, or that its revision stands for now. One that is not there is refused
    here, before torch is loaded."""
    from cai.models.local.finding import find_model, is_commit

    spec = pipeline.model
    if spec is None:
        return None
    moves = spec.revision is not None and not is_commit(spec.revision)
    recorded = _recorded(spec, folder) if moves else None
    found = find_model(spec.base, recorded or spec.revision)
    return replace(spec, revision=recorded or found.revision) if moves else spec


def _recorded(spec: ModelSpec, folder: Path) -> str | None:
    """What the run's folder says, if it is about the same model and revision."""
    if not (folder / RUN).is_file():
        return None
    data = read_yaml(folder / RUN).data
    if not isinstance(data, dict):
        return None
    model, commit = data.get("pipeline", {}).get("model") or {}, data.get("commit")
    same = (model.get("base"), model.get("revision")) == (spec.base, spec.revision)
    return str(commit) if same and commit else None
